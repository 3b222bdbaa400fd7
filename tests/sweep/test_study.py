"""Which trials there are, on Optuna and its SQLite file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tuneserve.sweep.records import SweepFolder
from tuneserve.sweep.space import parse_axes

pytest.importorskip("optuna")
from tuneserve.sweep.study import OpenTrial, Study

OWN = {"train.learning_rate": 2e-4, "train.r": 8}
TABLES: dict[str, dict[str, Any]] = {"train": {"learning_rate": 2e-4, "r": 8}}
LISTED = ("train.learning_rate=1e-4,2e-4,4e-4", "train.r=8,16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    monkeypatch.chdir(tmp_path)
    found = SweepFolder("s")
    found.root.mkdir(parents=True)
    return found


def study(
    folder: SweepFolder, *over: str, trials: int = 6, grid: bool = False, prune: bool = True
) -> Study:
    found = Study(folder, parse_axes(over, TABLES), seed=1, trials=trials, prune=prune)
    found.plan(OWN, grid=grid)
    return found


def opened(found: Study) -> OpenTrial:
    trial = found.next()
    assert trial is not None
    return trial


def test_a_grid_begins_with_the_recipe_and_has_every_combination_once(folder: SweepFolder) -> None:
    found = study(folder, *LISTED, grid=True)
    first = opened(found)
    assert first.as_is
    assert first.number == 0
    first.complete(1.0)
    first.close()
    # Planned once more by another process, it has no more of them.
    found = study(folder, *LISTED, grid=True)
    while (trial := found.next()) is not None:
        assert not trial.as_is
        trial.complete(0.5)
        trial.close()
    results = found.results(OWN)
    tried = [tuple(result.varied.values()) for result in results]
    assert tried[0] == (2e-4, 8)
    assert sorted(tried) == sorted((rate, r) for rate in (1e-4, 2e-4, 4e-4) for r in (8, 16))


def test_a_recipe_outside_of_what_is_searched_is_tried_as_it_is(folder: SweepFolder) -> None:
    over = ("train.learning_rate=1e-3..1e-2", "train.r=8,16")
    found = study(folder, *over, trials=5)
    chosen = []
    while (trial := found.next()) is not None:
        chosen.append((trial.as_is, trial.chosen))
        trial.complete(1.0 - 0.1 * trial.number)
        trial.close()
    assert chosen[0] == (True, {"train.r": "8"})
    assert len(chosen) == 5
    for as_is, one in chosen[1:]:
        assert not as_is
        assert 1e-3 <= float(one["train.learning_rate"]) <= 1e-2
    assert found.results(OWN)[0].varied == OWN


def test_no_combination_is_drawn_twice(folder: SweepFolder) -> None:
    found = study(folder, *LISTED, trials=6)
    tried = []
    while (trial := found.next()) is not None:
        tried.append(trial.chosen)
        trial.complete(1.0)
        trial.close()
    assert len(tried) == 6
    assert all(tried.count(one) == 1 for one in tried)


def test_the_worse_half_at_an_evaluation_is_pruned_but_never_the_recipe(
    folder: SweepFolder,
) -> None:
    found = study(folder, "train.learning_rate=1e-5..1e-3", trials=5)
    pruned = []
    for loss in (0.9, 1.0, 0.5, 0.95, 0.4):
        trial = opened(found)
        trial.report(1, loss, 10)
        pruned.append(trial.should_prune())
        trial.report(1, 99.0, 10)  # what was told before stays
        trial.prune() if pruned[-1] else trial.complete(loss)
        trial.close()
    # 2nd: worse than the first. 4th: of 4, two are better.
    assert pruned == [False, True, False, True, False]
    assert found.next() is None
    results = found.results(OWN)
    assert [result.state for result in results] == [
        "complete", "pruned", "complete", "pruned", "complete",
    ]  # fmt: skip
    assert [result.eval_loss for result in results] == [0.9, 1.0, 0.5, 0.95, 0.4]
    assert results[1].evaluations == [(10, 1.0)]


def test_the_recipe_as_it_is_is_not_pruned_by_trials_beside_it(folder: SweepFolder) -> None:
    found = study(folder, "train.learning_rate=1e-5..1e-3", trials=3)
    first, second = opened(found), opened(found)
    second.report(1, 0.1, 10)
    assert not second.should_prune()
    first.report(1, 5.0, 10)
    assert not first.should_prune()
    for trial in (first, second):
        trial.close()


DYING = """
import os, sys
from tuneserve.sweep.records import SweepFolder
from tuneserve.sweep.space import parse_axes
from tuneserve.sweep.study import Study
study = Study(SweepFolder("s"), parse_axes(["train.learning_rate=1e-5..1e-3"], {}), seed=1,
              trials=3, prune=True)
study.plan({"train.learning_rate": 2e-4}, grid=False)
trial = study.next()
trial.report(1, 0.7, 10)
print(trial.number, trial.chosen, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_trial_whose_process_is_gone_is_gone_on_with(folder: SweepFolder) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}", "PATH": ""}, timeout=120,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    found = study(folder, "train.learning_rate=1e-5..1e-3", trials=3)
    again = opened(found)
    assert again.went_on
    assert f"{again.number} {again.chosen}" == done.stdout.strip()
    # It is this process's now: the next one is another.
    other = opened(found)
    assert (other.number, other.went_on) == (1, False)
    again.report(1, 0.9, 10)
    again.complete(0.6)
    assert found.results(OWN)[0].evaluations == [(10, 0.7)]
    for trial in (again, other):
        trial.close()


def test_a_failed_trial_keeps_its_reason(folder: SweepFolder) -> None:
    found = study(folder, *LISTED, trials=3)
    trial = opened(found)
    trial.fail("memory ran out")
    trial.close()
    (result,) = found.results(OWN)
    assert (result.state, result.reason, result.eval_loss) == ("failed", "memory ran out", None)
