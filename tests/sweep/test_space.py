"""What --over takes, and what it refuses in one clear error."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import ROOT, Runner
from tuneserve.errors import UsageError
from tuneserve.settings import Recipe
from tuneserve.sweep.plan import Sweep
from tuneserve.sweep.space import Axis, own_values, parse_axes, with_chosen

TABLES: dict[str, dict[str, Any]] = {"train": {"r": 8, "learning_rate": 2e-4}}


def axis(text: str) -> Axis:
    (found,) = parse_axes([text], TABLES)
    return found


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("train.r=8, 16,8", (8, 16)),
        ("train.learning_rate=1e-4,5e-4", (1e-4, 5e-4)),
        ("train.use_dora=true,false", (True, False)),
        ("train.packing=auto,false", ("auto", "false")),
        ("model.load_in_4bit=true,false", (True, False)),
        (
            "train.target_modules=q_proj+v_proj,all-linear",
            (["q_proj", "v_proj"], ["all-linear"]),
        ),
    ],
)
def test_lists_are_values_of_the_settings_own_type(text: str, values: tuple[Any, ...]) -> None:
    found = axis(text)
    assert found.values == values
    assert [type(value) for value in found.values] == [type(value) for value in values]
    # What the search chooses is text; it comes back as the setting's value.
    assert [found.setting(one) for one in found.texts] == list(values)
    assert axis(str(found)) == found


@pytest.mark.parametrize(
    ("text", "log", "whole"),
    [
        ("train.learning_rate=1e-5..1e-3", True, False),
        ("train.learning_rate=1e-4..2e-4", False, False),
        ("train.learning_rate=1e-4..2e-4:log", True, False),
        ("train.r=4..64", True, True),
        ("train.r=4..64:linear", False, True),
        ("train.dropout=0..0.5", False, False),
    ],
)
def test_ranges_are_logarithmic_where_their_bounds_are_far_apart(
    text: str, log: bool, whole: bool
) -> None:
    found = axis(text)
    assert (found.log, found.whole, found.values) == (log, whole, ())
    assert found.low < found.high
    assert axis(str(found)) == found


def test_numbers_of_a_range_have_four_digits_and_stay_inside() -> None:
    found = axis("train.learning_rate=1.23444e-5..1e-3")
    assert found.setting(0.000123456789) == 0.0001235
    assert found.setting(1.23446e-5) == 1.23444e-5
    assert axis("train.r=4..64").setting(16) == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lerning_rate=1,2", "'train.lerning_rate' (did you mean 'learning_rate'?)"),
        ("trian.r=8,16", "unknown table 'trian' (did you mean 'train'?)"),
        ("train.r=0,8", "train.r: input should be greater than or equal to 1"),
        ("train.r=8,many", "train.r: input should be a valid integer"),
        ("train.learning_rate=1e-4..2", "train.learning_rate: input should be less than or equal"),
        ("train.packing=auto,maybe", "train.packing: input should be 'auto'"),
        ("train.packing=auto..true", "is no number: give a list"),
        ("train.learning_rate=1e-3..1e-5", "goes from a smaller number to a larger one"),
        ("train.dropout=0..0.5:log", "begins above 0"),
        ("train.r=8", "has one value"),
        ("train.r=", "write SECTION.KEY=VALUES"),
        ("r=8,16", "write SECTION.KEY=VALUES"),
        ("train.evaluations=1,2", "trials are compared at the same evaluations"),
        ("data.eval_fraction=0.1,0.2", "the same held-out examples"),
        ("model.base=a,b", "the same held-out examples"),
        ("convert.imatrix=true,false", "the same held-out examples"),
    ],
)  # fmt: skip
def test_what_can_not_be_varied_is_one_error(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        axis(text)
    assert message in caught.value.render()
    assert "--over" in caught.value.where


def test_a_setting_is_varied_once_and_something_is() -> None:
    with pytest.raises(UsageError, match="given twice"):
        parse_axes(["train.r=8,16", "train.r=32,64"], TABLES)
    with pytest.raises(UsageError, match="nothing to vary"):
        parse_axes([], TABLES)


def test_the_command_tells_a_wrong_key_before_anything_is_loaded(tuneserve: Runner) -> None:
    recipe = str(ROOT / "examples" / "sentiment.toml")
    done = tuneserve("sweep", recipe, "--over", "train.lerning_rate=1,2")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --over train.lerning_rate: unknown key 'train.lerning_rate' "
        "(did you mean 'learning_rate'?)\n"
    )


def sweep(*texts: str, trials: int) -> Sweep:
    recipe = Recipe.model_validate(TABLES)
    return Sweep("s", TABLES, recipe, parse_axes(texts, TABLES), trials)


def test_few_combinations_are_all_tried_and_the_recipe_as_it_is() -> None:
    rates, ranks = "train.learning_rate=1e-4,5e-4", "train.r=8,16"
    assert (sweep(rates, ranks, trials=12).grid, sweep(rates, ranks, trials=12).total) == (True, 5)
    # Here the recipe as it is is one of them.
    own = "train.learning_rate=2e-4,5e-4"
    assert sweep(own, ranks, trials=4).total == 4
    assert (sweep(rates, ranks, trials=3).grid, sweep(rates, ranks, trials=3).total) == (False, 3)
    assert not sweep("train.learning_rate=1e-5..1e-3", trials=100).grid


def test_what_was_chosen_goes_into_the_recipe() -> None:
    axes = parse_axes(["train.learning_rate=1e-5..1e-3", "data.balance=off,group"], TABLES)
    assert own_values(axes, Recipe.model_validate(TABLES)) == {
        "train.learning_rate": 2e-4, "data.balance": "off",
    }  # fmt: skip
    chosen = with_chosen(TABLES, axes, {"train.learning_rate": 3e-4, "data.balance": "group"})
    assert chosen == {"train": {"r": 8, "learning_rate": 3e-4}, "data": {"balance": "group"}}
    assert TABLES["train"]["learning_rate"] == 2e-4
