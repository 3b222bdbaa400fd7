"""A report is up to date only while everything that it was made of is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import tuneserve
from tuneserve.bench.inputs import input_hashes, report_settings, what_is_new
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
    assert what_is_new(result, run, recipe, HASHES) == []
    served = ServeSettings(port=1, host="0.0.0.0", log="json", log_prompts=True)
    elsewhere = recipe.model_copy(update={"serve": served})
    assert what_is_new(result, run, elsewhere, HASHES) == []
    gated = recipe.bench.model_copy(update={"fail_if_worse": True})
    assert what_is_new(result, run, recipe.model_copy(update={"bench": gated}), HASHES) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: root / "runs/r/data/test.jsonl", "has changed"),
        (lambda root: root / "runs/r/data/train.jsonl", "has changed"),
        (lambda root: root / "runs/r/data/general.jsonl", "is new"),
        (lambda root: root / "task.jsonl", "has changed"),
        (lambda root: root / "text.txt", "has changed"),
        (lambda root: root / "tasks/two.jsonl", "is new"),
    ],
)
def test_a_changed_file_makes_it_stale_and_is_named(
    made: tuple[RunDirectory, Recipe, BenchResult], change: Callable[[Path], Path], said: str
) -> None:
    run, recipe, result = made
    path = change(run.root.parents[1])
    path.write_text("[]\n")
    assert what_is_new(result, run, recipe, HASHES) == [f"{path} {said}"]


def test_a_file_that_is_gone_makes_it_stale(
    made: tuple[RunDirectory, Recipe, BenchResult],
) -> None:
    run, recipe, result = made
    path = run.root.parents[1] / "tasks" / "one.jsonl"
    path.unlink()
    assert what_is_new(result, run, recipe, HASHES) == [f"{path} is gone"]


def test_other_models_settings_or_releases_make_it_stale_and_are_named(
    made: tuple[RunDirectory, Recipe, BenchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe, result = made
    other = recipe.bench.model_copy(update={"tolerance": 0.1, "choices": ("a", "b")})
    changed = recipe.model_copy(
        update={"bench": other, "serve": recipe.serve.model_copy(update={"threads": 3})}
    )
    assert what_is_new(result, run, changed, HASHES) == [
        'bench.choices was [], is ["a", "b"]',
        "bench.tolerance was 1e-06, is 0.1",
        "serve.threads was 0, is 3",
    ]
    # A release before this one knew no such setting.
    del result.settings["bench"]["unordered"]
    assert what_is_new(result, run, recipe, HASHES) == [
        "bench.unordered was not a setting, is false"
    ]
    result.settings["bench"]["unordered"] = False
    release = tuneserve.__version__
    monkeypatch.setattr("tuneserve.__version__", "99")
    others = {"base": "1", "tuned": "3", "another": "4"}
    assert what_is_new(result, run, recipe, others) == [
        f"tuneserve was {release}, is 99",
        "the model another is new",
        "the model tuned has changed",
    ]
