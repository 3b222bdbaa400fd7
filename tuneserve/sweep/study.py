"""The study that all processes of a sweep share: Optuna on an SQLite file. Import it late."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from tuneserve.locks import HeldError, hold, locked
from tuneserve.sweep.records import SweepFolder, TrialResult
from tuneserve.sweep.space import Axis, Chosen, all_chosen, combinations

# Of those that reach an evaluation, the better half goes on at the 1st, 2nd, 4th, … of them.
_FIRST_RUNG, _REDUCTION = 1, 2
_LOCK_SECONDS = 60  # that a process waits for another to be done with the database
_AS_IS = "as_is"
_RUNS, _REASON, _STEPS = "run", "reason", "steps"
_FIXED = "fixed_params"  # Optuna's name for the values of a trial that was put on the list
_DRAWS = 50
_FEWEST_RANDOM, _MOST_RANDOM = 3, 10
_STATES = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}  # fmt: skip


class TrialSampler(BaseSampler):  # type: ignore[misc]
    """TPE that draws no combination twice. What a trial gets depends on the seed, its number and
    the trials before it, not on which process asks."""

    def __init__(self, axes: Sequence[Axis], *, seed: int, trials: int) -> None:
        self._axes = axes
        self._space = {axis.key: distribution(axis) for axis in axes}
        self._seed = seed
        self._random_trials = min(_MOST_RANDOM, max(_FEWEST_RANDOM, trials // 3))

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        seed = self._seed + trial.number
        tpe = TPESampler(n_startup_trials=self._random_trials, seed=seed)
        uniform = RandomSampler(seed=seed)
        tried = [
            other.params
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
        ]
        for _ in range(_DRAWS):
            drawn = tpe.sample_relative(study, trial, search_space) or {
                name: uniform.sample_independent(study, trial, name, one)
                for name, one in search_space.items()
            }
            if drawn not in tried:
                return dict(drawn)
        left = [one for one in self._listed() if one not in tried]
        return random.Random(seed).choice(left) if left else dict(drawn)  # noqa: S311

    def _listed(self) -> list[Chosen]:
        return all_chosen(self._axes) if combinations(self._axes) is not None else []

    def sample_independent(self, study: Any, trial: Any, param_name: str, one: Any) -> Any:
        seed = self._seed + trial.number
        return RandomSampler(seed=seed).sample_independent(study, trial, param_name, one)


def distribution(axis: Axis) -> BaseDistribution:
    """A setting's values as Optuna has them."""
    if axis.values:
        return CategoricalDistribution(axis.texts)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


@dataclass
class OpenTrial:
    """A trial that this process runs; its lock is held until `close`."""

    number: int
    chosen: Chosen
    as_is: bool
    went_on: bool
    _trial: Any
    _lock: int

    def report(self, place: int, loss: float, step: int) -> None:
        """The loss of the evaluation at this `place` (from 1), after an optimizer step. What was
        reported before is not reported again."""
        known = self._trial.study.get_trials(deepcopy=False)[self.number]
        if place not in known.intermediate_values:
            self._trial.report(loss, place)
            steps = self._trial.user_attrs.get(_STEPS, {})
            self._trial.set_user_attr(_STEPS, {**steps, str(place): step})

    def should_prune(self) -> bool:
        """Do others do better at this evaluation? Never of the recipe as it is, which the best is
        compared with."""
        pruned: bool = self._trial.should_prune()  # counts it among those that came so far
        return pruned and not self.as_is

    def complete(self, loss: float) -> None:
        self._trial.study.tell(self._trial, loss)

    def prune(self) -> None:
        self._trial.study.tell(self._trial, state=TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        self._trial.set_user_attr(_REASON, reason)
        self._trial.study.tell(self._trial, state=TrialState.FAIL)

    def close(self) -> None:
        os.close(self._lock)


class Study:
    """The trials of a sweep, in its folder. Every change of which trials there are is made under
    the sweep's lock."""

    def __init__(
        self, folder: SweepFolder, axes: Sequence[Axis], *, seed: int, trials: int, prune: bool
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._folder, self._axes, self._total = folder, axes, trials
        pruner = (
            SuccessiveHalvingPruner(min_resource=_FIRST_RUNG, reduction_factor=_REDUCTION)
            if prune
            else NopPruner()
        )
        with locked(folder.lock), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{folder.database.absolute()}",
                    engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}},
                ),
                study_name=folder.name,
                sampler=TrialSampler(axes, seed=seed, trials=trials),
                pruner=pruner,
                direction="minimize",
                load_if_exists=True,
            )

    def plan(self, own: dict[str, Any], *, grid: bool) -> None:
        """Put the first trials on the list: the recipe as it is, with its `own` values (as JSON, by
        key), and for a grid every other combination. What is there already is not put twice."""
        inside = [axis for axis in self._axes if axis.holds(own[axis.key])]
        known = {axis.key: axis.chosen(own[axis.key]) for axis in inside}
        with locked(self._folder.lock):
            if not self._study.get_trials(deepcopy=False):
                self._study.enqueue_trial(known, user_attrs={_AS_IS: True})
            for chosen in all_chosen(self._axes) if grid else ():
                if chosen != known:
                    self._study.enqueue_trial(chosen, skip_if_exists=True)

    def next(self) -> OpenTrial | None:
        """A trial to run: one whose process is gone, or a new one; None if there are none left."""
        with locked(self._folder.lock):
            trials = self._study.get_trials(deepcopy=False)
            for found in trials:
                if found.state == TrialState.RUNNING and (lock := self._free(found.number)):
                    return self._open(optuna.trial.Trial(self._study, found._trial_id), lock, True)
            begun = sum(found.state != TrialState.WAITING for found in trials)
            if begun >= self._total:
                return None
            trial = self._study.ask()
            lock = hold(self._folder.trial_lock(trial.number), wait=False)
            return self._open(trial, lock, False)

    def _free(self, number: int) -> int | None:
        """The lock of a trial that no process runs."""
        try:
            return hold(self._folder.trial_lock(number), wait=False)
        except HeldError:
            return None

    def _open(self, trial: Any, lock: int, went_on: bool) -> OpenTrial:
        as_is = bool(trial.user_attrs.get(_AS_IS))
        fixed = self._study.get_trials(deepcopy=False)[trial.number].system_attrs.get(_FIXED, {})
        for axis in self._axes:
            # The recipe's own value may lie outside of what is searched.
            if axis.key in fixed or not as_is:
                _suggest(trial, axis)
        run = self._folder.run(trial.number)
        trial.set_user_attr(_RUNS, run.name)
        return OpenTrial(trial.number, dict(trial.params), as_is, went_on, trial, lock)

    def results(self, own: dict[str, Any]) -> list[TrialResult]:
        """The trials that were begun, in their order; `own`: the values of the recipe as it is."""
        found = self._study.get_trials(deepcopy=False)
        return [self._result(one, own) for one in found if one.state != TrialState.WAITING]

    def _result(self, trial: Any, own: dict[str, Any]) -> TrialResult:
        as_is = bool(trial.user_attrs.get(_AS_IS))
        varied = {
            axis.key: own[axis.key] if as_is else axis.setting(trial.params[axis.key])
            for axis in self._axes
            if as_is or axis.key in trial.params
        }
        steps = trial.user_attrs.get(_STEPS, {})
        evaluations = [
            (int(steps.get(str(place), 0)), loss)
            for place, loss in sorted(trial.intermediate_values.items())
        ]
        return TrialResult(
            number=trial.number,
            run=self._folder.run(trial.number).name,
            state=_STATES[trial.state],
            varied=varied,
            evaluations=evaluations,
            eval_loss=trial.value,
            reason=str(trial.user_attrs.get(_REASON, "")),
        )


def _suggest(trial: Any, axis: Axis) -> None:
    """Let the trial have a value of the setting; one that it has already stays."""
    if axis.values:
        trial.suggest_categorical(axis.key, axis.texts)
    elif axis.whole:
        trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log)
    else:
        trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
