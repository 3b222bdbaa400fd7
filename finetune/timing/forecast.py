"""A recipe's work and how long it takes here, before anything is trained."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace

from tuneserve.base import BaseConfig
from tuneserve.base.window import within_window
from tuneserve.console import say, waiting
from tuneserve.cores import allowed_cores
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.extras import missing_packages
from tuneserve.findings import Finding
from tuneserve.finetune.data.hub import is_here
from tuneserve.finetune.data.prepare import data_inputs, prepare_examples
from tuneserve.finetune.memory.budget import budget_for
from tuneserve.finetune.memory.prefixes import plan_sharing
from tuneserve.finetune.memory.schedule import Schedule, plan_steps
from tuneserve.finetune.memory.search import MemoryStrategy
from tuneserve.finetune.runtime.libraries import has_gpu, load_runtime
from tuneserve.finetune.timing.calibration import measure_pace, needed_bytes
from tuneserve.finetune.timing.estimate import TimeEstimate, by_pace, by_run
from tuneserve.finetune.timing.lengths import COUNTED, encode_examples
from tuneserve.finetune.timing.work import Work, training_work
from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.tokens.epoch import EpochSampler, Stream, TrainingSet, build_training_set
from tuneserve.finetune.training.measured_speed import machine_name, measured_speed
from tuneserve.model_shape import ModelShape
from tuneserve.records import Record
from tuneserve.settings import Recipe

LONGEST = "longest"
# Waiting or running processes for each core, from which on a machine is timed beside others.
_BUSY = 0.5


class Forecast(Record):
    """The work of a training and its time. `lengths`: the examples' were 'counted' with the base's
    tokenizer or 'estimated' from their characters; or there are no examples, and each of those that
    max_steps takes counts as one of the 'longest'. Without `time`, `left_out` says why."""

    lengths: str
    epoch_examples: int
    epoch_tokens: int
    steps: int
    tokens: int
    time: TimeEstimate | None = None
    left_out: str = ""


class NoForecastError(Exception):
    """Why nothing can be said of a training's work."""


def forecast(
    recipe: Recipe,
    base: BaseConfig,
    shape: ModelShape,
    *,
    device: str,
    calibrate: bool,
    named: bool,
) -> tuple[Forecast, MemoryStrategy | None]:
    """Read the recipe's examples, and time this machine unless a run has already shown its speed.
    With it, where the machine was timed, how training fits these examples into its memory.

    `device` is 'cuda' or 'cpu'; without `calibrate` the machine is not timed. `named`: the user has
    named the data in this command. Raises NoForecastError where there are no usable examples, and
    UsageError if data that the user named is not there.
    """
    lengths, encoded, training_set = _examples(recipe, base, named=named)
    schedule = plan_steps(recipe.train, len(training_set.sampler))
    work = training_work(training_set, encoded, schedule, recipe.train, device=device)
    found = Forecast(
        lengths=lengths,
        epoch_examples=work.epoch_examples,
        epoch_tokens=work.epoch_tokens,
        steps=work.steps,
        tokens=work.tokens,
    )
    try:
        time, strategy = _time(
            recipe, base, shape, training_set, schedule, work, lengths, device, calibrate
        )
    except NoForecastError as reason:
        return found.model_copy(update={"left_out": str(reason)}), None
    return found.model_copy(update={"time": time}), strategy


def check_examples(recipe: Recipe, base: BaseConfig) -> Finding:
    """Can the recipe's examples, which are here, be trained on with this base? 'refused' says why
    not."""
    recipe = within_window(recipe, base.config, told=False)
    try:
        _, encoded, training_set = _examples(recipe, base, named=True)
    except NoForecastError as reason:
        return Finding("examples", "refused", str(reason))
    longest = max(len(item.input_ids) for item in training_set.encoded)
    return Finding(
        "examples", "ok", f"{len(encoded['train']):,} to train on, the longest {longest:,} of "
        f"{recipe.model.max_seq_length:,} tokens",
    )  # fmt: skip


def _examples(
    recipe: Recipe, base: BaseConfig, *, named: bool
) -> tuple[str, dict[str, list[Encoded]], TrainingSet]:
    gone = [str(path) for path in data_inputs(recipe.data) if not is_here(path)]
    if gone and named:
        raise UsageError("no such file, folder or pattern", where=gone[0])
    if gone and recipe.train.max_steps:
        return _longest(recipe)
    if gone:
        raise NoForecastError(f"the examples are not here ({', '.join(gone)})")
    try:
        prepared = prepare_examples(recipe.data)
        lengths, encoded, encode = encode_examples(recipe, base, prepared)
        return lengths, encoded, build_training_set(prepared, encoded, encode, recipe)
    except TuneserveError as error:
        where = f"{error.where}: " if error.where else ""
        raise NoForecastError(
            f"the examples can't be trained on as they are ({where}{error.message}; "
            "`tuneserve data check` says all)"
        ) from error


def _longest(recipe: Recipe) -> tuple[str, dict[str, list[Encoded]], TrainingSet]:
    count = recipe.train.examples_per_step * recipe.train.max_steps
    length = recipe.model.max_seq_length
    example = Encoded([0] * length, [0] * length, length, 0)
    stream = Stream(tuple((place,) for place in range(count)), count)
    sampler = EpochSampler([stream], recipe.train.seed)
    return LONGEST, {}, TrainingSet([example] * count, sampler, 0, 0, 0)


def _time(
    recipe: Recipe,
    base: BaseConfig,
    shape: ModelShape,
    training_set: TrainingSet,
    schedule: Schedule,
    work: Work,
    lengths: str,
    device: str,
    calibrate: bool,
) -> tuple[TimeEstimate, MemoryStrategy | None]:
    missing = missing_packages("train")
    if missing or importlib.util.find_spec("torch") is None:
        raise NoForecastError("what trains is not installed: pip install 'tuneserve[train]'")
    import torch

    if (device == "cuda") != has_gpu():
        raise NoForecastError(
            "this machine has no GPU: --cpu plans for its CPU"
            if device == "cuda"
            else "planned for a CPU, and this machine trains on its GPU"
        )
    mean = work.epoch_tokens / work.epoch_examples
    machine = machine_name(torch, device)
    if run := measured_speed(
        shape, recipe.train, device=device, machine=machine, length=mean, tokens=work.tokens
    ):
        return by_run(run.tokens_per_second, work, run.run), None
    if not calibrate:
        raise NoForecastError("this machine was not timed (--no-calibrate)")
    if (load := os.getloadavg()[0]) > _BUSY * (cores := len(allowed_cores())):
        say(
            f"note: other processes are at work here (load {load:.1f} on {cores} cores): the time "
            "will be that beside them"
        )
    with waiting("loading Unsloth, to time this machine"):
        runtime = load_runtime(recipe.train.precision)
    sharing = None
    if lengths == COUNTED:  # what examples begin with is known by their tokens
        sharing, _ = plan_sharing(recipe.train, runtime, base.config, training_set)
    budget = budget_for(recipe, runtime, base.config, training_set.encoded, schedule, sharing)
    assert budget.search_within is not None
    strategy = budget.search_within(budget.available)
    settings = strategy.decisions.applied(recipe.train)
    if sharing is not None:
        saved = sharing.computed(settings.batch_size).saved
        work = replace(work, computed=work.computed * (1 - saved))
    if needed_bytes(shape, runtime.precision) > budget.available:
        raise NoForecastError("timing one layer of this base takes more memory than is free")
    with waiting("timing this machine for about ten seconds"):
        pace = measure_pace(
            runtime.torch, shape, settings, device=device, precision=runtime.precision,
            batch=settings.batch_size, length=work.length,
        )  # fmt: skip
    return by_pace(pace, work, strategy, shape, device=device), strategy
