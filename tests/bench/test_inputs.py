"""A report is up to date only while everything that it was made of is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tuneserve.bench.inputs import input_hashes, is_up_to_date, report_settings
from tuneserve.bench.result import AccuracySummary, BenchResult, PerplexitySummary
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings, Recipe, ServeSettings

HASHES = {"base": "1", "tuned": "2"}


@pytest.fixture
def made(tmp_path: Path) -> tuple[RunDirectory, Recipe, BenchResult]:
    run = RunDirectory(tmp_path / "runs" / "r")
    run.data.mkdir(parents=True)
    for name in ("test", "train"):
        run.split(name).write_text("{}\n")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("task.jsonl", "text.txt", "tasks/one.jsonl"):
        (tmp_path / name).write_text("one\n")
    bench = BenchSettings(
        tasks=(f"{tmp_path / 'task.jsonl'}=number", f"{folder}=exact"),
        texts=(str(tmp_path / "text.txt"),),
    )
    recipe = Recipe(bench=bench)
    result = BenchResult(
        outcome="", verdict="", prompts=1, forgetting="",
        accuracy=AccuracySummary(base=0, tuned=0, p=1),
        perplexity=PerplexitySummary(base=1, tuned=1),
        settings=report_settings(recipe), sha256=HASHES, inputs=input_hashes(run, bench),
    )  # fmt: skip
    return run, recipe, result


def test_it_is_up_to_date_whatever_does_not_change_it(
    made: tuple[RunDirectory, Recipe, BenchResult],
) -> None:
    run, recipe, result = made
    assert is_up_to_date(result, run, recipe, HASHES)
    served = ServeSettings(port=1, host="0.0.0.0", log="json", log_prompts=True)
    elsewhere = recipe.model_copy(update={"serve": served})
    assert is_up_to_date(result, run, elsewhere, HASHES)
    gated = recipe.bench.model_copy(update={"fail_if_worse": True})
    assert is_up_to_date(result, run, recipe.model_copy(update={"bench": gated}), HASHES)


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.split("test").write_text("{}\n{}\n"),
        lambda run: run.split("train").write_text("[]\n"),
        lambda run: run.split("general").write_text("{}\n"),
        lambda run: (run.root.parents[1] / "task.jsonl").write_text("one\ntwo\n"),
        lambda run: (run.root.parents[1] / "text.txt").write_text("two\n"),
        lambda run: (run.root.parents[1] / "tasks" / "two.jsonl").write_text("new\n"),
        lambda run: (run.root.parents[1] / "tasks" / "one.jsonl").unlink(),
    ],
)
def test_a_changed_file_makes_it_stale(
    made: tuple[RunDirectory, Recipe, BenchResult], change: Callable[[RunDirectory], object]
) -> None:
    run, recipe, result = made
    change(run)
    assert not is_up_to_date(result, run, recipe, HASHES)


def test_other_models_settings_or_releases_make_it_stale(
    made: tuple[RunDirectory, Recipe, BenchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe, result = made
    assert not is_up_to_date(result, run, recipe, {**HASHES, "tuned": "3"})
    other = recipe.bench.model_copy(update={"tolerance": 0.1})
    assert not is_up_to_date(result, run, recipe.model_copy(update={"bench": other}), HASHES)
    monkeypatch.setattr("tuneserve.__version__", "99")
    assert not is_up_to_date(result, run, recipe, HASHES)
