from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT
from tuneserve.errors import UsageError
from tuneserve.recipe import LARGEST_RECIPE, load_recipe, validate
from tuneserve.recipe_text import recipe_text
from tuneserve.settings import Recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "examples").glob("*.toml")))
def test_shipped_recipes_are_valid(name: str) -> None:
    assert load_recipe(ROOT / "examples" / name)


def test_typo_names_line_and_nearest_key(tmp_path: Path) -> None:
    path = write(tmp_path, "# a recipe\n[train]\nr = 8\nlearnin_rate = 1e-3\n")
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert caught.value.render() == (
        f"{path}:4: unknown key 'train.learnin_rate' (did you mean 'learning_rate'?)"
    )
    assert caught.value.exit_code == 2


def test_unknown_table_names_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown table 'trian' \(did you mean 'train'\?\)"):
        load_recipe(write(tmp_path, "[trian]\nr = 8\n"))


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    text = '[train]\nr = 0\nepochs = "many"\n[serve]\nprot = 1\n'
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text))
    shown = caught.value.render()
    assert "3 settings are wrong" in shown
    assert ":2: train.r: input should be greater than or equal to 1 (got 0)" in shown
    assert ":3: train.epochs" in shown
    assert ":5: unknown key 'serve.prot' (did you mean 'port'?)" in shown


def test_bad_toml_missing_file_and_binary(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(write(tmp_path, "[train\n"))
    with pytest.raises(UsageError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="can't be read"):
        load_recipe(tmp_path / "binary.toml")


def test_nothing_left_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must leave examples to train on"):
        load_recipe(write(tmp_path, "[data]\neval_fraction = 0.5\ntest_fraction = 0.5\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\nreplay = 0.1\n", r"recipe\.toml:1: data: replay needs general examples"),
        (
            "[data]\ngeneral = 'x'\ngeneral_fraction = 0\n",
            "data.general_fraction: .* greater than 0",
        ),
        (
            "[data]\ngeneral = 'x'\nreplay = 0.1\ngeneral_fraction = 1\n",
            "general_fraction = 1 leaves no general examples to replay",
        ),
        ("[train]\nmax_general_rise = 0.1\n", r"recipe\.toml: train\.max_general_rise needs data"),
        (
            "[data]\ngeneral = 'x'\neval_fraction = 0\n[train]\nmax_general_rise = 0.1\n",
            "max_general_rise needs data",
        ),
    ],
)
def test_settings_that_need_one_another(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(write(tmp_path, text))


def test_dotted_keys_are_found_on_their_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe\.toml:2: train\.r"):
        load_recipe(write(tmp_path, "\ntrain.r = 0\n"))


@given(st.text(max_size=200))
def test_any_text_is_accepted_or_refused_cleanly(tmp_path_factory: object, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"  # type: ignore[attr-defined]
    path.write_text(text, encoding="utf-8")
    try:
        load_recipe(path)
    except UsageError as error:
        assert str(path) in error.render()


def test_settings_survive_a_round_trip_through_json() -> None:
    recipe = Recipe()
    assert validate(recipe.model_dump(mode="json"), where="x") == recipe


@pytest.mark.parametrize(
    "key", ["packing", "gradient_checkpointing", "compile", "offload_embeddings"]
)
def test_booleans_of_toml_are_the_words_of_a_switch(tmp_path: Path, key: str) -> None:
    for written, word in (("true", "true"), ('"true"', "true"), ("false", "false")):
        tables = load_recipe(write(tmp_path, f"[train]\n{key} = {written}\n"))
        assert getattr(validate(tables, where="x").train, key) == word
    for wrong in ("1", '"True"', "[]"):
        with pytest.raises(UsageError, match=f"train.{key}: input should be 'auto'"):
            load_recipe(write(tmp_path, f"[train]\n{key} = {wrong}\n"))


@pytest.mark.parametrize("key", ["target_modules", "modules_to_save"])
def test_names_of_modules_may_be_one_text(tmp_path: Path, key: str) -> None:
    for written, names in (
        ('"all-linear"', ("all-linear",)),
        ('["all-linear"]', ("all-linear",)),
        ('"q_proj, v_proj"', ("q_proj", "v_proj")),
    ):
        tables = load_recipe(write(tmp_path, f"[train]\n{key} = {written}\n"))
        assert getattr(validate(tables, where="x").train, key) == names
    with pytest.raises(UsageError, match=f"train.{key}"):
        load_recipe(write(tmp_path, f"[train]\n{key} = 3\n"))


def test_no_target_is_no_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.target_modules"):
        load_recipe(write(tmp_path, '[train]\ntarget_modules = ""\n'))


@pytest.mark.parametrize("number", ["inf", "nan"])
def test_settings_are_finite(tmp_path: Path, number: str) -> None:
    for key in ("checkpoint_minutes", "max_general_rise", "learning_rate"):
        with pytest.raises(UsageError, match=rf"train\.{key}"):
            load_recipe(write(tmp_path, f"[train]\n{key} = {number}\n"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("pipe", "no file but a device"), ("device", "no file but a device"),
     ("long", "too large"), ("deep", "nested too deep")],
)  # fmt: skip
def test_a_recipe_is_a_file_of_bounded_size(kind: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("#" * (LARGEST_RECIPE + 1) if kind == "long" else "a = " + "[" * 50_000)
    with pytest.raises(UsageError, match=reason) as caught:
        load_recipe(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("section", "name", "word"), [("train", "gpus", "all"), ("serve", "replicas", "auto")]
)
def test_a_word_has_no_number_beside_it(tmp_path: Path, section: str, name: str, word: str) -> None:
    for wrong in ("0", '"0"'):
        path = write(tmp_path, f"[{section}]\n{name} = {wrong}\n")
        with pytest.raises(
            UsageError, match=f"toml:2: {section}.{name}: is at least 1, or '{word}'"
        ):
            load_recipe(path)
    number = getattr(getattr(validate({section: {name: word}}, where=""), section), name)
    written = recipe_text({section: {name: number}}, {}, "")
    assert f'\n{name} = "{word}"\n' in written
    # Earlier releases kept the number.
    assert validate({section: {name: 0}}, where="run.json") == validate(
        {section: {name: word}}, where=""
    )
