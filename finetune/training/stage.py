"""The training stage: examples and a base model in, a LoRA adapter in the run directory out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tuneserve.base import ResolvedBase, resolve_base
from tuneserve.base.fast_tokenizer import save_fast_tokenizer
from tuneserve.base.window import within_window
from tuneserve.charts import LossCurves
from tuneserve.chat.examples import Example
from tuneserve.console import human_seconds, percent, say
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.files import atomic_path, remove, write_json
from tuneserve.finetune.data.prepare import (
    Prepared,
    data_hash,
    describe,
    prepare_examples,
    write_split,
)
from tuneserve.finetune.data.reading import raise_problems
from tuneserve.finetune.memory.budget import as_before, plan_budget
from tuneserve.finetune.memory.prefixes import plan_sharing
from tuneserve.finetune.memory.schedule import plan_steps, shared_out
from tuneserve.finetune.runtime.libraries import (
    check_device,
    check_hardware,
    load_runtime,
    may_have_gpu,
    peak_memory,
    quiet,
)
from tuneserve.finetune.runtime.model import (
    check_finite,
    load_tokenizer,
    trainable_parameters,
)
from tuneserve.finetune.runtime.processes import (
    is_first_process,
    only_first_talks,
    process_count,
    wait_for_all,
)
from tuneserve.finetune.runtime.shards import check_divisible, is_divided
from tuneserve.finetune.runtime.targets import with_targets
from tuneserve.finetune.tokens.encoder import (
    Encoded,
    Encoder,
    encode_parts,
    token_counts,
)
from tuneserve.finetune.tokens.epoch import build_training_set
from tuneserve.finetune.training.checkpoints import (
    claim,
    discard,
    fingerprint,
    last_checkpoint,
    mark_replacing,
    remember_strategy,
    remembered_strategy,
    step_of,
)
from tuneserve.finetune.training.curves import loss_curves, write_curves_page
from tuneserve.finetune.training.eval_losses import FILE as EVAL_LOSSES
from tuneserve.finetune.training.finished import (
    finished_result,
    training_changes,
    was_cut_off,
)
from tuneserve.finetune.training.loop import Scalars, Trained, TrainingJob, run_training
from tuneserve.finetune.training.measured_speed import machine_name
from tuneserve.finetune.training.quantization_aware import StoredWeights, rounding_recipe
from tuneserve.finetune.training.recorded import FILE as RECORDED
from tuneserve.finetune.training.recorded import write_losses
from tuneserve.finetune.training.result import (
    EpochRecord,
    Losses,
    MemoryRecord,
    PeakMemory,
    Steps,
    TrainedBase,
    TrainResult,
)
from tuneserve.finetune.training.trained_files import base_hashes, check_replaceable_run, run_hashes
from tuneserve.foreign import check_plain
from tuneserve.identity import Hashes
from tuneserve.model_files import check_config
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


class Preflight(Protocol):
    """Looks at what a training is about to begin with, and ends it by the errors it raises."""

    def configuration(self, recipe: Recipe, base: ResolvedBase) -> None:
        """What the base's config.json tells, at once."""

    def conversion(self, recipe: Recipe, base: ResolvedBase, examples: Sequence[Example]) -> None:
        """What takes seconds to find out."""


# Where the steps after the first were so many times as fast as all, both speeds are told.
_CLEARLY_FASTER = 1.1


def train(
    recipe: Recipe,
    run: RunDirectory,
    *,
    force: bool = False,
    skip_done: bool = False,
    preflight: Preflight | None = None,
    stored_weights: Callable[[Path], StoredWeights] | None = None,
    scalars: Scalars | None = None,
) -> TrainResult | None:
    """Fine-tune the recipe's base on its examples; returns the stage's result, as in run.json.

    `stored_weights` gives, for a base's checkpoint, its weights as the file of the recipe's
    quantization will hold them; quantization_aware needs it.
    `scalars` is told of each step and evaluation, by the first process alone.
    In a process that is not the first of several there is none. Goes on from the last
    checkpoint of an unfinished training with the same settings and data; with `force` it starts
    afresh. A finished training that is replaced stays as it is, with its split and its record,
    until the new adapter is written. `preflight` is called before the training libraries are
    loaded, by the first process alone.
    Raises OutputExistsError if the run has an adapter and `force` is not given, UsageError for
    bad data or settings, TrainingStoppedError after Ctrl-C.
    """
    check_plain(run.root)
    if force:
        run.set_aside_damaged()
    run.read()  # a record that can't be read is an error before anything slow or lasting happens
    if skip_done and (done := finished_result(recipe, run)):
        run.tidy()
        return done
    check_divisible(recipe)
    run.check_writable()
    if is_first_process():  # the others work on it beside that one
        run.check_idle()
    if force:
        check_replaceable_run(run)
    if run.adapter.exists() and not force and not was_cut_off(run):
        raise OutputExistsError(run.adapter, problems=training_changes(recipe, run))
    with only_first_talks():
        job = _prepare(recipe, run, preflight, stored_weights)
        if not is_first_process():
            _compute_beside(job)
            return None
        job.scalars = scalars
        with run.alone():
            if force:
                discard(run.checkpoints)
            identity = fingerprint(recipe, base=str(job.base.path), data=data_hash(recipe.data))
            resume = claim(run.checkpoints, identity)
            replacing = run.adapter.exists() and "train" in run.read().stages
            mark_replacing(run.checkpoints, replacing)
            if not replacing:
                run.save_settings(recipe)
                write_split(job.prepared, run)
            if resume:
                _plan_as_remembered(job)
            remember_strategy(run.checkpoints, job.budget.decisions())
            wait_for_all()
            with run.stage("train", keep=replacing) as running:
                # Read beside the steps: a base that is exchanged meanwhile is not what was loaded.
                with ThreadPoolExecutor(1) as pool:
                    hashed = pool.submit(base_hashes, job.base.path)
                    trained = _train(job, resume)
                with _written_adapter(job, trained):
                    if replacing:
                        write_split(job.prepared, run)
                        running.withdraw()
                        run.save_settings(recipe)
                    if trained.recorded is not None:
                        write_losses(trained.recorded, run.data)
                    else:
                        remove(run.data / RECORDED)
                    if trained.eval_losses is not None:
                        write_json(run.data / EVAL_LOSSES, trained.eval_losses.to_json())
                    else:
                        remove(run.data / EVAL_LOSSES)
                result = _finish(job, trained, resume, hashed.result())
                running.result = result
            mark_replacing(run.checkpoints, False)
    return result


def _compute_beside(job: TrainingJob) -> None:
    """What a process other than the first does: it takes part in the steps and writes nothing."""
    wait_for_all()
    # Its own GPU may have more or less memory free: all must do as the first one planned.
    _plan_as_remembered(job)
    run_training(job, last_checkpoint(job.run.checkpoints))


def _plan_as_remembered(job: TrainingJob) -> None:
    """Plan again as this training was planned before: what memory is free differs by now."""
    decisions = remembered_strategy(job.run.checkpoints)
    if decisions is not None:
        recipe = as_before(job.recipe, decisions)
        job.budget = plan_budget(
            recipe, job.runtime, job.base.path, job.training_set.encoded, job.schedule,
            job.sharing,
        )  # fmt: skip


def _prepare(
    recipe: Recipe,
    run: RunDirectory,
    preflight: Preflight | None,
    stored_weights: Callable[[Path], StoredWeights] | None,
) -> TrainingJob:
    recipe = rounding_recipe(recipe)
    if not may_have_gpu():
        check_device("cpu", recipe.train)
    prepared = prepare_examples(recipe.data)
    _tell_split(prepared)
    _check_limit_is_watched(recipe, prepared)
    base = resolve_base(recipe.model.base)
    recipe = within_window(recipe, check_config(base.path / "config.json"))
    looks = preflight if is_first_process() else None
    if looks is not None:
        looks.configuration(recipe, base)
    recipe = recipe.model_copy(update={"train": with_targets(base.path, recipe.train)})
    if looks is not None:
        looks.conversion(recipe, base, prepared.split.examples())
    share = shared_out(recipe.train, process_count())
    stored = None
    if recipe.train.quantization_aware:
        if stored_weights is None:
            raise UsageError("nothing rounds the weights here", where="train.quantization_aware")
        stored = stored_weights(base.path)
        say(f"the weights are rounded to {stored.quantization} while training")
    say(f"base model: {base.name}; loading Unsloth")
    runtime = load_runtime(recipe.train.precision, divided=recipe.train.shard)
    check_hardware(runtime, recipe.train)
    if process_count() == 1 and (there := runtime.torch.cuda.device_count()) > 1:
        say(f"note: {there} GPUs are here, and one of them trains (--gpus all: every one)")
    tokenizer = load_tokenizer(base.path, recipe.model)
    encoder = Encoder.of(recipe, tokenizer, prepared.split.train)
    examples = sum(map(len, prepared.parts().values()))
    encoded, problems = encode_parts(encoder, prepared, skip_bad=recipe.data.skip_bad)
    for line in prepared.notes.lines():
        say(f"note: {line}")
    raise_problems(problems, examples, where=str(recipe.data.file), what="trained on")
    _tell_tokens(encoded)
    training_set = build_training_set(prepared, encoded, encoder.encode_all, recipe)
    say(training_set.describe())
    schedule = plan_steps(share, len(training_set.sampler), devices=process_count())
    # Which examples a step has does not depend on how many processes share it.
    whole = share.model_copy(
        update={"gradient_accumulation": share.gradient_accumulation * process_count()}
    )
    sharing, told = plan_sharing(
        whole, runtime, check_config(base.path / "config.json"), training_set
    )
    if told:
        say(told)
    recipe = recipe.model_copy(update={"train": share})
    budget = plan_budget(recipe, runtime, base.path, training_set.encoded, schedule, sharing)
    return TrainingJob(
        recipe, run, base, runtime, tokenizer, prepared, encoded, training_set, schedule, budget,
        sharing, stored,
    )  # fmt: skip


def _train(job: TrainingJob, resume: Path | None) -> Trained:
    say(job.budget.describe())
    trained = run_training(job, resume)
    check_finite(trained.weights, where=str(job.run.root))
    return trained


def _finish(job: TrainingJob, trained: Trained, resume: Path | None, base: Hashes) -> TrainResult:
    curves = loss_curves(trained.trainer.state.log_history, trained.best)
    write_curves_page(curves, job.run.root / "curves.html", job.run.name)
    result = _result(job, trained, curves, resume, base)
    _tell_result(result)
    return result


@contextlib.contextmanager
def _written_adapter(job: TrainingJob, trained: Trained) -> Iterator[None]:
    """The adapter is written when the block begins, and takes its place when it ends."""
    with atomic_path(job.run.adapter) as directory:
        with quiet(errors_too=True):
            model = trained.trainer.model
            whole = trained.weights if is_divided(model) else None
            model.save_pretrained(directory, state_dict=whole)
            save_fast_tokenizer(job.tokenizer, directory)
        # PEFT's model card is an empty form for the hub.
        (directory / "README.md").unlink(missing_ok=True)
        yield


def _result(
    job: TrainingJob, trained: Trained, curves: LossCurves, resume: Path | None, base: Hashes
) -> TrainResult:
    trainer = trained.trainer
    peak = peak_memory()
    train_seconds = max(trained.seconds - trainer.evaluation_seconds, 1e-9)
    return TrainResult(
        base=TrainedBase(
            spec=job.base.spec, path=str(job.base.path.absolute()), name=job.base.name, sha256=base
        ),
        files=run_hashes(job.run),
        examples=job.prepared.split.counts(),
        data=describe(job.prepared, job.recipe.data),
        tokens={name: token_counts(part) for name, part in job.encoded.items()},
        epoch=EpochRecord(
            examples=len(job.training_set.sampler), general=job.training_set.replayed
        ),
        device=job.runtime.device,
        machine=machine_name(job.runtime.torch, job.runtime.device),
        max_seq_length=job.recipe.model.max_seq_length,
        precision=job.runtime.precision,
        trainable_parameters=trainable_parameters(trainer.model),
        steps=Steps(
            planned=job.schedule.steps,
            done=trainer.state.global_step,
            best=trained.best,
            resumed_from=step_of(resume) if resume else None,
        ),
        losses=Losses(train=curves.train, eval=curves.eval, general=curves.general),
        held_out=trained.held_out,
        training_seconds=round(train_seconds, 1),
        evaluation_seconds=round(trainer.evaluation_seconds, 1),
        tokens_per_second=round(trainer.tokens_in_all / train_seconds, 1),
        steady_tokens_per_second=round(trainer.steady_rate, 1),
        peak_memory=PeakMemory.model_validate(peak),
        memory_plan=MemoryRecord(
            **job.budget.decisions().to_json(),
            chosen=job.budget.chosen,
            predicted_bytes=job.budget.predicted,
            measured_bytes=peak.get("gpu_bytes", peak["resident_bytes"]),
        ),
    )


def _tell_split(prepared: Prepared) -> None:
    split = prepared.split
    parts = ", ".join(f"{count:,} {name}" for name, count in split.counts().items())
    replay_set = prepared.replay_set
    say(
        f"examples ({', '.join(prepared.shapes)}): {parts}"
        + (f"; {split.removed:,} duplicates removed" if split.removed else "")
        + (f" ({len(split.near):,} of them near ones)" if split.near else "")
        + (f"; {prepared.skipped:,} unusable left out" if prepared.skipped else "")
    )
    if replay_set is not None:
        removed = replay_set.removed
        say(
            f"general examples: {len(replay_set.train):,} to replay, "
            f"{len(replay_set.eval):,} held out"
            + (f"; {removed:,} duplicates removed" if removed else "")
        )


def _check_limit_is_watched(recipe: Recipe, prepared: Prepared) -> None:
    """Raise UsageError if a loss is limited that is only measured beside the eval split's."""
    if recipe.train.max_general_rise and not prepared.split.eval:
        raise UsageError(
            "the general loss is measured where the eval split's is, and there is no eval split",
            where="train.max_general_rise",
            hint="Add examples, raise eval_fraction, or set max_general_rise = 0.",
        )


def _tell_tokens(encoded: Mapping[str, list[Encoded]]) -> None:
    counts = token_counts(encoded["train"])
    per = counts.trained_per_example
    line = (
        f"training on {counts.trained_tokens:,} answer tokens of {counts.tokens:,} "
        f"({per.min} to {per.max} an example)"
    )
    if counts.truncated:
        line += (
            f"; {counts.truncated:,} examples are cut to max_seq_length and lose "
            f"{counts.trained_tokens_lost:,} answer tokens"
        )
    say(line)


def _tell_result(result: TrainResult) -> None:
    peak = result.peak_memory
    say(
        f"trained {result.steps.done} steps in {human_seconds(result.training_seconds)} "
        f"({_speed(result)}) and evaluated in "
        f"{human_seconds(result.evaluation_seconds)}; best at step {result.steps.best}; "
        f"peak memory {peak.resident_bytes / 2**30:.2f} GiB"
        + (f", GPU {peak.gpu_bytes / 2**30:.2f} GiB" if peak.gpu_bytes is not None else "")
    )
    if (start := _no_better_than(result)) is not None:
        say(
            f"WARNING: no evaluation was below the untouched base's (eval loss {start:.4f} at step "
            "0): on the eval split this adapter does no better than the base. Lower the "
            "learning_rate, or look at the data"
        )
    planned = result.memory_plan
    if planned.predicted_bytes:
        error = planned.measured_bytes / planned.predicted_bytes - 1
        side = "above" if error > 0 else "below"
        say(f"memory: {percent(abs(error), 0)} {side} the plan")
    for name, figures in result.held_out.items():
        say(
            f"{name}: loss {figures.loss:.4f} per answer token, perplexity {figures.perplexity:.3f}"
        )


def _speed(result: TrainResult) -> str:
    """Of all steps, and of those that were shown while it trained, where that is another."""
    whole, later = result.tokens_per_second, result.steady_tokens_per_second
    shown = f"{whole:,.0f} tokens/s"
    if later > _CLEARLY_FASTER * whole:
        shown += f"; {later:,.0f} after the first step"
    return shown


def _no_better_than(result: TrainResult) -> float | None:
    """The eval loss of the untouched base, if no later evaluation was below it."""
    before = [loss for step, loss in result.losses.eval if step == 0]
    after = [loss for step, loss in result.losses.eval if step > 0]
    return before[0] if before and after and min(after) >= before[0] else None
