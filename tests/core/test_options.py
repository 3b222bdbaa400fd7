from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tuneserve.cli.common import later_stage_settings
from tuneserve.options import (
    as_options,
    option_names,
    parameter_name,
    resolve_settings,
    settings_options,
)
from tuneserve.recipe import section_model
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings, Recipe, ServeSettings, TrainSettings


def resolve(
    *arguments: str, saved: dict[str, Any] | None = None, recipe: Path | None = None
) -> Recipe:
    captured: list[Recipe] = []

    @click.command()
    @settings_options(*Recipe.model_fields)
    @click.pass_context
    def command(context: click.Context, /, **_: Any) -> None:
        captured.append(resolve_settings(context, saved=saved, recipe=recipe))

    result = CliRunner().invoke(command, list(arguments), standalone_mode=False)
    if result.exception:
        raise result.exception
    return captured[0]


def later_settings(folder: Path, recipe: str, *options: str) -> Recipe:
    """What `convert` works with after a training, for a recipe file and options given to it."""
    run = RunDirectory(folder / "runs" / "done")
    trained = {
        "model": {"base": "mine"},
        "data": {"file": "a.jsonl"},
        "train": {"r": 2, "alpha": 2},
    }
    run.save_settings(Recipe.model_validate({**trained, "convert": {"max_kld": 0.5}}))
    config = folder / "recipe.toml"
    config.write_text(recipe)
    captured: list[Recipe] = []

    @click.command()
    @settings_options("convert")
    @click.pass_context
    def command(context: click.Context, /, **_: Any) -> None:
        captured.append(later_stage_settings(context, run, config, "convert"))

    command.main(list(options), standalone_mode=False)
    return captured[0]


def test_a_later_stage_keeps_model_data_and_training_as_they_were(tmp_path: Path) -> None:
    """The recipe file has changed since: what was trained is what is converted and compared."""
    changed = (
        '[model]\nbase = "other"\n[data]\nfile = "b.jsonl"\n[train]\nr = 64\n'
        '[convert]\nquantization = "Q8_0"\n'
    )
    got = later_settings(tmp_path, changed, "--max-quantized-kld", "0.25")
    assert (got.model.base, got.data.file, got.train.r) == ("mine", Path("a.jsonl"), 2)
    # The stage's own table is the recipe's and the command line's.
    assert (got.convert.quantization, got.convert.max_quantized_kld) == ("Q8_0", 0.25)
    assert got.convert.max_kld == 0.5


def test_every_field_has_exactly_one_option() -> None:
    @settings_options(*Recipe.model_fields)
    def function() -> None: ...

    parameters = function.__click_params__  # type: ignore[attr-defined]
    names = [parameter.name for parameter in parameters]
    expected = [
        parameter_name(section, name)
        for section in Recipe.model_fields
        for name in section_model(section).model_fields
    ]
    assert sorted(names) == sorted(expected)
    flags = [flag for parameter in parameters for flag in parameter.opts]
    assert len(flags) == len(set(flags))
    assert all(parameter.help for parameter in parameters)


def test_layers_defaults_saved_recipe_options(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[train]\nr = 4\nalpha = 4\n")
    saved = {"train": {"r": 2, "alpha": 2, "epochs": 7.0}}
    got = resolve("--r", "32", saved=saved, recipe=recipe).train
    assert (got.r, got.alpha, got.epochs) == (32, 4, 7.0)
    assert got.dropout == Recipe().train.dropout


def test_lists_flags_and_paths() -> None:
    got = resolve("--target-modules", "q_proj, v_proj", "--no-mmap", "--file", "x.jsonl")
    assert got.train.target_modules == ("q_proj", "v_proj")
    assert got.serve.mmap is False
    assert got.data.file == Path("x.jsonl")


@pytest.mark.parametrize("arguments", [("--r", "0"), ("--dropout", "1.0"), ("--bias", "some")])
def test_out_of_bounds_is_refused_by_click(arguments: tuple[str, ...]) -> None:
    with pytest.raises(click.BadParameter):
        resolve(*arguments)


def test_settings_as_options_are_the_same_settings_again() -> None:
    recipe = Recipe(
        train=TrainSettings(r=4, target_modules=("q_proj",), learning_rate=1e-3),
        serve=ServeSettings(ctx=4096, mmap=False, gpu_layers=0),
        bench=BenchSettings(ctx=512, clients=(2, 3), noise_floor=True),
    )
    names = option_names(tuple(Recipe.model_fields))
    words = as_options(recipe, names)
    assert words[words.index("--bench-ctx") + 1] == "512"
    assert resolve(*words) == recipe
    # A default is told too where the saved settings are others.
    told = as_options(Recipe(), option_names(["serve"]), recipe)
    assert resolve(*told, saved=recipe.model_dump()).serve == ServeSettings()
    assert {word for word in told if word.startswith("--")} == {"--ctx", "--mmap", "--gpu-layers"}
