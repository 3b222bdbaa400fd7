"""What came of a sweep: the best trial, beside the recipe as it is, and its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.files import write_text
from tuneserve.finetune.training.eval_losses import read_eval_losses
from tuneserve.locks import locked
from tuneserve.recipe_text import recipe_text
from tuneserve.sweep import verdict
from tuneserve.sweep.plan import Sweep
from tuneserve.sweep.records import Comparison, SweepFolder, SweepResult, TrialResult
from tuneserve.sweep.space import with_setting

AS_IS = 0
"""The number of the trial that is the recipe as it is."""


def best_of(trials: Sequence[TrialResult]) -> TrialResult | None:
    """The complete trial with the lowest eval loss; of equal ones the first."""
    done = [one for one in trials if one.state == "complete" and one.eval_loss is not None]
    return min(done, key=lambda one: (one.eval_loss, one.number), default=None)


def outcome(sweep: Sweep, folder: SweepFolder, trials: list[TrialResult]) -> SweepResult:
    """How a sweep stands; writes the recipe of the best trial."""
    best = best_of(trials)
    found = SweepResult(
        name=sweep.name, folder=str(folder.root), method="grid" if sweep.grid else "tpe",
        trials=trials, best=None, recipe=None, comparison=None, sentence="",
    )  # fmt: skip
    if best is None:
        return found.model_copy(update={"sentence": "no trial is done"})
    comparison = _comparison(folder, trials, best)
    sentence = _sentence(best, comparison)
    changes = {} if best.number == AS_IS else best.varied
    tables: Mapping[str, Mapping[str, Any]] = sweep.tables
    for axis in sweep.axes:
        if axis.key in changes:
            tables = with_setting(tables, axis.section, axis.name, changes[axis.key])
    heading = f"The best of {len(trials)} trials of the sweep {sweep.name}: {best.run}.\n{sentence}"
    with locked(folder.lock):
        write_text(folder.best, recipe_text(tables, {}, heading))
    return found.model_copy(
        update={
            "best": best.number, "recipe": str(folder.best), "comparison": comparison,
            "sentence": sentence,
        }
    )  # fmt: skip


def _comparison(
    folder: SweepFolder, trials: Sequence[TrialResult], best: TrialResult
) -> Comparison | None:
    """The best beside the recipe as it is; None where one of them is missing or they are one."""
    done = [trial.number for trial in trials if trial.state == "complete"]
    found = {number: read_eval_losses(folder.run(number)) for number in done}
    losses = {number: one for number, one in found.items() if one is not None}
    if best.number == AS_IS or not {AS_IS, best.number} <= losses.keys():
        return None
    others = (trial for trial in trials if trial.number != AS_IS)
    candidates = [trial for trial in others if trial.evaluations or trial.number in losses]
    return verdict.compare(AS_IS, best.number, losses, candidates=len(candidates))


def _sentence(best: TrialResult, comparison: Comparison | None) -> str:
    if best.number == AS_IS:
        return "no trial has a lower eval loss than the recipe as it is"
    if comparison is None:
        return (
            f"trial {best.number} has the lowest eval loss; the recipe as it is has none to "
            "compare it with"
        )
    return verdict.sentence(comparison)
