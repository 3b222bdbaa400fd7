from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tuneserve.cli.common import later_stage_settings
from tuneserve.errors import UsageError
from tuneserve.options import (
    as_options,
    option_names,
    parameter_name,
    resolve_settings,
    settings_options,
)
from tuneserve.recipe import section_model
from tuneserve.run import RunDirectory
from tuneserve.settings import ALL_GPUS, BenchSettings, Recipe, ServeSettings, TrainSettings
from tuneserve.sizes import parse_size, size_like


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


@pytest.mark.parametrize(
    "arguments",
    [
        ("--r", "0"), ("--dropout", "1.0"), ("--bias", "some"), ("--replicas", "0"),
        ("--gpus", "0"), ("--gpus", "-1"),
    ],
)  # fmt: skip
def test_out_of_bounds_is_refused_by_click(arguments: tuple[str, ...]) -> None:
    with pytest.raises(click.BadParameter):
        resolve(*arguments)


def test_settings_as_options_are_the_same_settings_again() -> None:
    recipe = Recipe(
        train=TrainSettings(r=4, target_modules=("q_proj",), learning_rate=1e-3, gpus=ALL_GPUS),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size-limit", "80%"), "size_limit is a setting of quantization = 'auto'"),
        (("--max-divergence", "0.1"), "max_divergence is a setting of quantization = 'auto'"),
        (("--quantization", "Q6_K", "--mix-tries", "9"), "mix_tries is a setting of"),
        (("--quantization", "auto", "--size-limit", "80"), "write 80M (megabytes) or 80%"),
        (("--quantization", "auto", "--size-limit", "80X"), "write bytes with a unit"),
        (("--quantization", "auto", "--size-limit", "80M", "--max-divergence", "1"), "exclude"),
    ],
)
def test_limits_of_auto_mean_something_or_are_refused(
    options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(*options)
    assert message in caught.value.render()


def test_another_quantization_or_limit_replaces_that_of_an_earlier_conversion() -> None:
    saved = {"convert": {"quantization": "auto", "size_limit": "80%", "mix_tries": 9}}
    plain = resolve("--quantization", "q5_k_m", saved=saved).convert
    assert (plain.quantization, plain.size_limit, plain.mix_tries) == ("Q5_K_M", "100%", 40)
    by_divergence = resolve("--max-divergence", "0.1", saved=saved).convert
    assert (by_divergence.size_limit, by_divergence.mix_tries) == ("100%", 9)


def test_a_word_is_known_in_lower_case_and_a_near_one_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[convert]\nquantization = 'iq4_nl'\n")
    assert resolve(recipe=recipe).convert.quantization == "IQ4_NL"
    assert resolve("--cache-type-k", "Q8_0").serve.cache_type_k == "q8_0"
    with pytest.raises(click.BadParameter, match="did you mean 'Q4_K_M'"):
        resolve("--quantization", "Q4KM")
    recipe.write_text("[convert]\nquantization = 'q4km'\n")
    with pytest.raises(UsageError, match="did you mean 'Q4_K_M'"):
        resolve(recipe=recipe)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80M", 80e6),
        ("1.5 GB", 1.5e9),
        ("2GiB", 2 * 2**30),
        ("900000kB", 9e8),
        ("12345678", 12345678),
    ],
)
def test_sizes_with_their_units(text: str, size: float) -> None:
    assert parse_size(text) == (None, size)
    assert parse_size("80 %") == (0.8, 0)


@pytest.mark.parametrize(
    ("text", "count", "size"),
    [
        ("5M", 5_600_001, "5.61M"), ("5 MiB", 2**21, "2 MiB"), ("3G", 1_230_000_000, "1.23G"),
        ("1000000", 1_200_000, "1200000"), ("10%", 470_001, "47.01%"), ("9kB", 29_000, "29kB"),
    ],
)  # fmt: skip
def test_the_least_size_in_the_unit_given(text: str, count: int, size: str) -> None:
    assert size_like(text, count, 10**6) == size


def test_a_list_is_given_at_once_or_again_and_again() -> None:
    words = ["--against", "one,two", "--against", "three.gguf", "--choices", ""]
    bench = resolve(*words, saved={"bench": {"choices": ["x"]}}).bench
    assert bench.against == ("one", "two", "three.gguf")
    assert bench.choices == ()  # given as empty
    assert bench.clients == BenchSettings().clients  # not given
