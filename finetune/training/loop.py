"""The steps of a training, from loading the base to the best adapter: out-of-memory, stops and
resuming included."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tuneserve.base import ResolvedBase
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import errors_named, read_json
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.memory.budget import Budget
from tuneserve.finetune.memory.schedule import Schedule, examples_in
from tuneserve.finetune.runtime.libraries import Runtime, free_memory, limit_memory, quiet
from tuneserve.finetune.runtime.model import add_adapter, load_base, trainable_parameters
from tuneserve.finetune.runtime.packing import check_apart, check_honoured
from tuneserve.finetune.runtime.processes import is_first_process, process_count
from tuneserve.finetune.runtime.shards import load_adapter, load_divided, trained_weights
from tuneserve.finetune.tokens.encoder import Encoded, to_dataset
from tuneserve.finetune.tokens.epoch import TrainingSet
from tuneserve.finetune.tokens.sharing import Sharing
from tuneserve.finetune.training.checkpoints import (
    checkpoint_at,
    is_replacing,
    remember_strategy,
    step_of,
)
from tuneserve.finetune.training.cpu import compile_layers, is_compiled, plain_attention
from tuneserve.finetune.training.curves import loss_curves, write_curves_page
from tuneserve.finetune.training.end_token import tell_unseen_end
from tuneserve.finetune.training.eval_losses import EvalLosses, measure_eval_losses
from tuneserve.finetune.training.losses import HeldOutLoss, general_rise, held_out_loss
from tuneserve.finetune.training.progress import progress_display
from tuneserve.finetune.training.progress_file import FILE as PROGRESS_FILE
from tuneserve.finetune.training.progress_file import ProgressFile
from tuneserve.finetune.training.quantization_aware import RoundedBase, StoredWeights
from tuneserve.finetune.training.recorded import RecordedLosses, record_losses
from tuneserve.finetune.training.trainer import build_trainer
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


class TrainingStoppedError(TuneserveError):
    """Training was stopped by Ctrl-C or SIGTERM; the steps that were done are saved."""

    exit_code = 130


Scalars = Callable[[Mapping[str, float], int], None]
"""Is told values by name, and the optimizer step they are of."""


@dataclass
class TrainingJob:
    """What training needs, checked and ready before anything slow or lasting happens.

    The examples are there as tokens by split ('replay': the replay set, 'general': what is held
    out of it), with what an epoch visits of them and how they are trained on. `sharing`: how
    beginnings are shared. `stored`: the base's weights as the file will hold them, where training
    is to reckon with it. `scalars` is told what TensorBoard's log is.
    """

    recipe: Recipe
    run: RunDirectory
    base: ResolvedBase
    runtime: Runtime
    tokenizer: Any
    prepared: Prepared
    encoded: dict[str, list[Encoded]]
    training_set: TrainingSet
    schedule: Schedule
    budget: Budget
    sharing: Sharing | None = None
    stored: StoredWeights | None = None
    scalars: Scalars | None = None


@dataclass(frozen=True)
class Trained:
    """A training that is over: its trainer with the best adapter in the model, and the figures.

    `recorded` holds losses that a conversion must find again, `eval_losses` those of the eval
    split's examples where the settings ask for them.
    `seconds` is the wall time of the steps with their evaluations, `held_out` the figures of the
    best adapter on the eval split (empty without one), `weights` its values by name.
    """

    trainer: Any
    best: int
    seconds: float
    held_out: dict[str, HeldOutLoss]
    weights: dict[str, Any]
    recorded: RecordedLosses | None = None
    eval_losses: EvalLosses | None = None


def run_training(job: TrainingJob, resume: Path | None) -> Trained:
    """Train all steps. If memory runs out in the first one, a process that trains alone does it
    once more in a way that takes less.

    Raises TrainingStoppedError if it was stopped before the last step, TuneserveError if memory
    does not suffice.
    """
    limit_memory(job.runtime, job.recipe.train.vram)
    # The other processes wait for this one in the middle of their step: none can start again.
    may_retry = process_count() == 1
    while True:
        try:
            return _attempt(job, resume)
        except job.runtime.torch.OutOfMemoryError as error:
            # Kept without its traceback, whose frames hold the model.
            shortage = str(error).splitlines()[0]
        smaller = job.budget.smaller(job.recipe.train) if may_retry else None
        if smaller is None:
            raise _out_of_memory(shortage)
        may_retry = False
        free_memory(job.runtime)
        job.budget = smaller
        remember_strategy(job.run.checkpoints, smaller.decisions())
        say(f"memory ran out in the first step; once more with {smaller.describe()}")


def _attempt(job: TrainingJob, resume: Path | None) -> Trained:
    model, tokenizer = _load(job)
    compiled = ", layers compiled" if is_compiled(model) else ""
    say(
        f"training {trainable_parameters(model):,} LoRA parameters on {job.runtime.device} in "
        f"{job.runtime.precision}, {job.schedule.steps} steps{compiled}"
        + (f", going on from {resume.name}" if resume else "")
    )
    rounded = RoundedBase(model, job.stored) if job.stored is not None else None
    started = time.monotonic()
    with plain_attention(job.runtime, job.training_set.encoded):
        trainer = _run_steps(job, model, tokenizer, resume, rounded)
        seconds = time.monotonic() - started
        best = _load_best(job, trainer)
        if rounded is not None:
            rounded.refresh()
        held_out = _held_out(job, trainer, best)
        recorded = None
        if not _rounds_base(job):
            recorded = record_losses(trainer, job.encoded, job.runtime.precision)
        eval_losses = None
        if job.recipe.train.record_eval_losses:
            eval_losses = measure_eval_losses(
                trainer, job.encoded["eval"], job.prepared.split.eval, best
            )
        weights = trained_weights(trainer.model)
        return Trained(trainer, best, seconds, held_out, weights, recorded, eval_losses)


def _rounds_base(job: TrainingJob) -> bool:
    """Does training compute with other weights than the base's files hold, so that its losses are
    not those of the merged weights?"""
    stored = read_json(job.base.path / "config.json").get("quantization_config")
    return job.recipe.train.quantization_aware or (job.budget.four_bit and not stored)


def _load(job: TrainingJob) -> tuple[Any, Any]:
    """The base with a fresh adapter, and its tokenizer."""
    settings = job.budget.settings
    compile_layers(job.budget.compiled)
    if settings.shard:
        load_divided(settings, four_bit=job.budget.four_bit)
    model, tokenizer = load_base(
        job.runtime, job.base.path, job.recipe.model, settings.gradient_checkpointing,
        four_bit=job.budget.four_bit, offloaded=settings.offload_embeddings == "true",
    )  # fmt: skip
    if job.budget.four_bit and not getattr(model, "is_loaded_in_4bit", False):
        say("WARNING: 4-bit does not work on this hardware; the base is loaded in 16 bits")
    model = add_adapter(job.runtime, model, settings)
    if settings.packing == "true" and job.runtime.device == "cpu":
        check_apart(job.runtime, model)
    return model, tokenizer


def _run_steps(
    job: TrainingJob,
    model: Any,
    tokenizer: Any,
    resume: Path | None,
    rounded: RoundedBase | None,
) -> Any:
    """The trainer after its last step. Raises TrainingStoppedError if it was stopped before."""
    from tuneserve.finetune.training.callbacks import (
        ProgressCallback,
        RoundingCallback,
        StoppingCallback,
        StopSignal,
    )
    from tuneserve.finetune.training.event_log import EventLog

    settings = job.budget.settings
    stop = StopSignal()
    with contextlib.ExitStack() as stack:
        count = len(job.training_set.sampler)
        examples = examples_in(job.schedule.steps, settings, count, devices=process_count())
        display = stack.enter_context(
            progress_display(
                job.schedule.steps, job.run.name,
                epochs=examples / count,
                evaluate_every=job.schedule.evaluate_every if job.encoded["eval"] else 0,
            )
        )  # fmt: skip
        logger, curves, file = None, None, None
        if is_first_process():
            resumed_at = step_of(resume) if resume else None
            logger = EventLog(job.run.root / "tensorboard", resumed_at)
            stack.enter_context(logger)
            file = ProgressFile(job.run.root / PROGRESS_FILE, resumed_at)
            stack.enter_context(contextlib.closing(file))
            if not is_replacing(job.run.checkpoints):  # the finished training's page stays
                curves = partial(_draw_curves, job.run)
        stack.enter_context(stop.handled())
        progress = ProgressCallback(display, logger, curves, file, job.scalars)
        stopping = StoppingCallback(
            stop,
            patience=settings.early_stopping_patience,
            max_general_rise=settings.max_general_rise,
            checkpoint_seconds=60 * settings.checkpoint_minutes,
            keep_checkpoints=settings.keep_checkpoints,
        )
        callbacks: list[Any] = [progress, stopping]
        if rounded is not None:
            callbacks.append(RoundingCallback(rounded, settings.rounding_steps))
        trainer = build_trainer(
            job.runtime, model, tokenizer, settings, job.schedule,
            job.training_set.encoded, job.training_set.sampler, job.encoded["eval"],
            general=job.encoded.get("general", ()), checkpoints=job.run.checkpoints,
            fresh=resume is None, callbacks=callbacks, sharing=job.sharing,
        )  # fmt: skip
        if settings.packing == "true" and job.runtime.device == "cuda":
            check_honoured(trainer)
        if job.sharing is not None:
            _check_sharing(job, trainer)
        progress.trainer = trainer

        def on_batch(name: str, done: int, batches: int) -> None:
            progress.evaluating(name, done, batches)
            # Of several processes all have to do the same: they stop after the first step.
            if stop.received and trainer.state.global_step == 0 and process_count() == 1:
                raise TrainingStoppedError(
                    "stopped before the first step: there is nothing to save",
                    where=str(job.run.root),
                    hint="Run the same command again.",
                )

        trainer.on_batch = on_batch
        if resume is None:
            tell_unseen_end(trainer, tokenizer, job.encoded["train"])
        _step_through(trainer, job, resume)
    if stop.received and trainer.state.global_step < job.schedule.steps:
        raise TrainingStoppedError(
            f"stopped after step {trainer.state.global_step} of {job.schedule.steps}; it is saved",
            where=str(job.run.root),
            hint="Run the same command again to go on from there (without --force, which starts "
            "afresh).",
        )
    return trainer


def _draw_curves(run: RunDirectory, history: Sequence[Mapping[str, float]]) -> None:
    """The page of the losses so far."""
    write_curves_page(loss_curves(history, None), run.root / "curves.html", run.name)


def _check_sharing(job: TrainingJob, trainer: Any) -> None:
    """Share no beginnings if the first batch that would comes out otherwise than its examples do
    one by one. Raises UsageError if the settings ask for it."""
    from tuneserve.finetune.training.prefix_sharing import obstacle_found

    told = obstacle_found(trainer, job.runtime.precision)
    if told is None:
        return
    if job.recipe.train.prefix_sharing == "true":
        raise UsageError(told, where="train.prefix_sharing")
    trainer.data_collator.active = False
    say(f"{told}; they are computed each time")


def _step_through(trainer: Any, job: TrainingJob, resume: Path | None) -> None:
    """Train. Memory that runs out in the first step is passed on as it is: nothing is lost yet."""
    first = step_of(resume) if resume else 0
    if resume and first >= job.schedule.steps:
        _load_last(trainer, resume)  # the trainer would make one step more
        return
    try:
        with errors_named(job.run.checkpoints), quiet():
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except job.runtime.torch.OutOfMemoryError as error:
        if trainer.state.global_step <= first:
            raise
        raise _out_of_memory(str(error).splitlines()[0]) from error


def _load_last(trainer: Any, checkpoint: Path) -> None:
    """Put the trainer where it was after the last step, when this checkpoint was written."""
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    load_adapter(trainer, checkpoint)
    # As the trainer does before its first step: else the losses are computed in another precision.
    trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)


def _load_best(job: TrainingJob, trainer: Any) -> int:
    """Put the adapter with the lowest eval loss back into the model; returns its step.

    Raises TuneserveError if the general loss was above its limit at the first evaluation.
    """
    last: int = trainer.state.global_step
    rise = general_rise(trainer.state.log_history)
    if trainer.state.best_global_step is None and 0 < job.recipe.train.max_general_rise < rise:
        raise TuneserveError(
            f"the loss on general examples has risen by {rise:.3f} before the first evaluation was "
            "over: there is no adapter from before it to keep",
            where="train.max_general_rise",
            hint="Raise the limit or [data] replay, lower the learning_rate, or evaluate more "
            "often; then train with --force.",
        )
    best: int = trainer.state.best_global_step or last
    if best == last:
        return last
    checkpoint = checkpoint_at(job.run.checkpoints, best)
    if checkpoint is None:
        raise TuneserveError(
            f"the best checkpoint (step {best}) is gone or damaged",
            where=str(job.run.root),
            hint="Train with --force: it starts afresh.",
        )
    load_adapter(trainer, checkpoint)
    return best


def _held_out(job: TrainingJob, trainer: Any, best: int) -> dict[str, HeldOutLoss]:
    """The best adapter's figures on the eval split and on the held-out replay set; measured already
    unless that was in another process. The test split is the benchmark's: training never looks at
    it."""
    if known := trainer.evaluated.get(best):
        figures: dict[str, HeldOutLoss] = known
        return figures
    return {
        name: held_out_loss(trainer, to_dataset(job.encoded[name]), name)
        for name in ("eval", "general")
        if job.encoded.get(name)
    }


def _out_of_memory(shortage: str) -> TuneserveError:
    return TuneserveError(
        f"memory ran out: {shortage}",
        hint="Train with a smaller batch_size and more gradient_accumulation, shorter examples "
        "(max_seq_length), load_in_4bit or fewer target_modules.",
    )
