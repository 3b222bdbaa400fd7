"""A sweep from its first trial to the recipe of the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuneserve.bench.stats.significance import fewest_clusters
from tuneserve.console import say
from tuneserve.durable import make_folder
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import check_replaceable, remove, write_text
from tuneserve.finetune.data.prepare import data_hash, prepare_examples
from tuneserve.finetune.training.checkpoints import discard
from tuneserve.finetune.training.eval_losses import read_eval_losses
from tuneserve.finetune.training.result import TrainResult
from tuneserve.finetune.training.trained_files import ADAPTER_FILES
from tuneserve.locks import locked
from tuneserve.recipe_text import recipe_text
from tuneserve.run import RunDirectory
from tuneserve.sweep import verdict
from tuneserve.sweep.outcome import AS_IS, best_of, outcome
from tuneserve.sweep.plan import Sweep
from tuneserve.sweep.records import SweepFolder, SweepRecord, SweepResult, TrialResult, new_record
from tuneserve.sweep.space import own_values, text_of, with_chosen, with_setting
from tuneserve.sweep.trial import (
    PRUNED,
    Evaluation,
    Signals,
    SweepStoppedError,
    failure,
    is_usage_error,
    train_trial,
)

if TYPE_CHECKING:
    from tuneserve.sweep.study import OpenTrial


def run_sweep(sweep: Sweep) -> SweepResult:
    """Run the trials that are left, beside other processes that run the same sweep; returns how it
    stands then.

    Raises UsageError, before anything is trained, for a recipe without held-out losses or a sweep
    that was begun otherwise, and where the recipe as it is can't be trained; SweepStoppedError
    after Ctrl-C.
    """
    folder = SweepFolder(sweep.name)
    record = _checked(sweep)
    make_folder(folder.root)
    with locked(folder.lock):
        record = folder.begin(record)
    from tuneserve.sweep.study import Study

    study = Study(
        folder, sweep.axes, seed=sweep.recipe.train.seed, trials=sweep.total, prune=sweep.prune
    )
    own = own_values(sweep.axes, sweep.recipe)
    study.plan(own, grid=sweep.grid)
    _tell_start(sweep, record)
    signals = Signals()
    with signals.passed_on():
        while not signals.received and (trial := study.next()) is not None:
            try:
                _run_trial(sweep, folder, record, trial, signals)
            finally:
                trial.close()
            if not sweep.keep:
                _remove_losers(folder, study.results(own))
    if signals.received:
        raise SweepStoppedError(
            "stopped; what was trained is saved",
            where=str(folder.root),
            hint="Give the same command again to go on.",
        )
    return outcome(sweep, folder, study.results(own))


def _checked(sweep: Sweep) -> SweepRecord:
    """The record of this sweep, after a look at its examples."""
    recipe = sweep.recipe
    if not recipe.train.evaluations:
        raise UsageError("trials are chosen by the eval loss, and there is none: set evaluations",
                         where="train.evaluations")  # fmt: skip
    held_out = prepare_examples(recipe.data).split.eval
    if not held_out:
        raise UsageError(
            "trials are chosen by the loss on the eval split, and there is none",
            where="data.eval_fraction",
            hint="Raise eval_fraction, or add examples.",
        )
    sources = {example.source or example.where for example in held_out}
    candidates = max(1, sweep.total - 1)
    least = fewest_clusters((1 - verdict.CONFIDENCE) / candidates)
    if len(sources) < least:
        say(
            f"WARNING: the eval split has {len(sources)} independent examples; with fewer than "
            f"{least} no trial can be shown to be better than the recipe as it is"
        )
    return new_record(
        sweep.name, recipe, [str(axis) for axis in sweep.axes], data_sha256=data_hash(recipe.data),
        grid=sweep.grid, held_out=len(held_out),
    )  # fmt: skip


def _tell_start(sweep: Sweep, record: SweepRecord) -> None:
    how = "every combination" if sweep.grid else "TPE"
    say(
        f"sweep {sweep.name}: {sweep.total} trials ({how}) over {' '.join(record.over)}; the first "
        f"is the recipe as it is; chosen by the loss on {record.held_out} examples of the eval "
        "split"
    )
    if sweep.prune and sweep.recipe.train.evaluations == 1:
        say("note: with one evaluation nothing can be pruned: set train.evaluations")


def _run_trial(
    sweep: Sweep, folder: SweepFolder, record: SweepRecord, trial: OpenTrial, signals: Signals
) -> None:
    """Train it and tell the study what came of it; a stopped one stays open."""
    run, log, path = folder.run(trial.number), folder.log(trial.number), folder.recipe(trial.number)
    tables = sweep.tables if trial.as_is else with_chosen(sweep.tables, sweep.axes, trial.chosen)
    heading = f"Trial {trial.number} of the sweep {sweep.name}."
    write_text(
        path, recipe_text(with_setting(tables, "train", "record_eval_losses", True), {}, heading)
    )
    begun = "goes on" if trial.went_on else "begins"
    say(f"trial {trial.number} {begun}: {_shown(sweep, trial)} ({log})")

    def ends(found: Evaluation) -> bool:
        trial.report(found.place, found.loss, found.step)
        say(f"trial {trial.number}: step {found.step} of {found.steps}: eval loss {found.loss:.4f}")
        return trial.should_prune() and found.step < found.steps and not signals.received

    code = train_trial(path, run, log, signals, ends, preflight=trial.as_is)
    if code is PRUNED:
        trial.prune()
        say(f"trial {trial.number} pruned: others do better at this step")
    elif code == 0:
        _complete(trial, run, folder, record)
    elif signals.received:
        return
    elif trial.as_is and is_usage_error(code):
        raise UsageError(
            f"the recipe as it is can't be trained: {failure(code, log)}", where=str(log)
        )
    else:
        _fail(trial, failure(code, log))


def _complete(
    trial: OpenTrial, run: RunDirectory, folder: SweepFolder, record: SweepRecord
) -> None:
    """A training is done: its loss counts if it is the loss on the same examples."""
    result = run.finished("train", TrainResult)
    losses = read_eval_losses(run)
    if result is None or losses is None or "eval" not in result.held_out:
        _fail(trial, "the training has recorded no eval loss")
        return
    first = None if trial.as_is else read_eval_losses(folder.run(AS_IS))
    if result.data.sha256 != record.data_sha256:
        _fail(trial, "the examples have changed since the sweep began")
    elif first is not None and not verdict.comparable(first, losses):
        _fail(trial, "its held-out examples are not those of the recipe as it is, token by token")
    else:
        loss = result.held_out["eval"].loss
        trial.complete(loss)
        say(f"trial {trial.number} done: eval loss {loss:.4f}")


def _fail(trial: OpenTrial, reason: str) -> None:
    trial.fail(reason)
    say(f"trial {trial.number} failed: {reason}")


def _shown(sweep: Sweep, trial: OpenTrial) -> str:
    if trial.as_is:
        return "the recipe as it is"
    return ", ".join(
        f"{axis.key} = {text_of(axis.setting(trial.chosen[axis.key]))}" for axis in sweep.axes
    )


def _remove_losers(folder: SweepFolder, trials: Sequence[TrialResult]) -> None:
    """Remove the checkpoints of all trials that are over, and the adapters of all but the best."""
    best = best_of(trials)
    with locked(folder.lock):
        for trial in trials:
            run = folder.run(trial.number)
            if trial.state == "running" or not run.root.is_dir():
                continue
            loses = best is None or trial.number != best.number
            if not (run.checkpoints.exists() or (loses and run.adapter.exists())):
                continue
            try:
                with run.alone():
                    discard(run.checkpoints)
                    if loses:
                        check_replaceable(run.adapter, ADAPTER_FILES, what="adapter")
                        remove(run.adapter)
            except TuneserveError as error:  # somebody's files, or somebody at work on the run
                say(f"note: not removed: {error.where}: {error.message}")
