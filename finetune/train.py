"""The training stage: examples and a base model in, a LoRA adapter in the run directory out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.budget import Budget, plan_budget
from finetune.callbacks import StopSwitch, build_callbacks
from finetune.checkpoints import checkpoint_at, claim, fingerprint, last_checkpoint
from finetune.curves import draw_curves, points
from finetune.draw import EpochDraw, once_each
from finetune.encode import encode_all, token_counts
from finetune.mask import Encoded, Encoder
from finetune.model import (
    add_adapter,
    check_targets,
    is_four_bit,
    load_base,
    load_tokenizer,
    trainable_parameters,
)
from finetune.prepare import (
    Prepared,
    data_files,
    data_hash,
    describe,
    prepare_examples,
    write_split,
)
from finetune.runtime import Runtime, check_hardware, load_runtime, peak_memory, quiet
from finetune.schedule import Schedule, plan_steps
from finetune.split import SPLITS
from finetune.trainer import EVAL_LOSS, build_trainer, held_out_loss
from tuneserve.base import ResolvedBase, resolve_base
from tuneserve.console import human_seconds, progress, say
from tuneserve.errors import OutputExistsError, TuneserveError
from tuneserve.files import atomic_path, remove
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


class TrainingStoppedError(TuneserveError):
    """Training was stopped by Ctrl-C or SIGTERM; what was done is saved."""

    exit_code = 130


@dataclass
class _Job:
    """What training needs, checked and ready before anything slow or lasting happens."""

    recipe: Recipe
    run: RunDirectory
    base: ResolvedBase
    runtime: Runtime
    tokenizer: Any
    prepared: Prepared
    encoded: dict[str, list[Encoded]]
    draw: EpochDraw
    schedule: Schedule
    budget: Budget


def train(
    recipe: Recipe, run: RunDirectory, *, force: bool = False, skip_done: bool = False
) -> dict[str, Any]:
    """Fine-tune the recipe's base on its examples; returns the stage's result, as in run.json.

    Goes on from the last checkpoint of an unfinished training with the same settings and data.
    Raises OutputExistsError if the run has an adapter and `force` is not given, UsageError for
    bad data or settings, TrainingStoppedError after Ctrl-C.
    """
    if skip_done and (done := finished_result(recipe, run)):
        say(f"{run.adapter}: done already")
        return done
    if run.adapter.exists() and not force and not _was_cut_off(run):
        raise OutputExistsError(run.adapter)
    job = _prepare(recipe, run)
    if force:
        for path in (run.adapter, run.checkpoints):
            remove(path)
    identity = fingerprint(recipe, base=str(job.base.path), data=data_hash(recipe.data))
    resume = claim(run.checkpoints, identity)
    run.save_settings(recipe)
    write_split(job.prepared.split, run)
    with run.stage("train") as record:
        record.result = _train(job, resume)
    return record.result


def finished_result(recipe: Recipe, run: RunDirectory) -> dict[str, Any] | None:
    """The result of a finished training with these very settings and data, if there is one."""
    record = run.read()
    entry = record.get("stages", {}).get("train")
    if not entry or not run.adapter.is_dir():
        return None
    wanted = recipe.model_dump(mode="json")
    same = all(record["settings"].get(name) == wanted[name] for name in ("model", "data", "train"))
    result: dict[str, Any] = entry["result"]
    files_there = all(path.exists() for path, _ in data_files(recipe.data))
    if not same or not files_there or data_hash(recipe.data) != result["data"]["sha256"]:
        return None
    return result


def _was_cut_off(run: RunDirectory) -> bool:
    """Was the process killed after it wrote the adapter and before run.json says so?"""
    recorded = "train" in run.read().get("stages", {})
    return not recorded and last_checkpoint(run.checkpoints) is not None


def _prepare(recipe: Recipe, run: RunDirectory) -> _Job:
    prepared = prepare_examples(recipe.data)
    _tell_split(prepared)
    base = resolve_base(recipe.model.base)
    check_targets(base.path, recipe.train)
    say(f"base model: {base.name}; loading Unsloth")
    runtime = load_runtime(recipe.train.precision)
    check_hardware(runtime, recipe.train)
    tokenizer = load_tokenizer(base.path, recipe.model)
    encoder = Encoder(
        tokenizer,
        max_length=recipe.model.max_seq_length,
        train_on=recipe.data.train_on,
        thoughts=recipe.data.thoughts,
    )
    encoded = {name: _encode_part(encoder, prepared, name, recipe) for name in SPLITS}
    _tell_tokens(encoded)
    draw = once_each(len(encoded["train"]), recipe.train.seed)
    schedule = plan_steps(recipe.train, len(draw))
    budget = plan_budget(recipe, runtime, base.path, encoded["train"])
    say(budget.describe())
    return _Job(recipe, run, base, runtime, tokenizer, prepared, encoded, draw, schedule, budget)


def _encode_part(encoder: Encoder, prepared: Prepared, name: str, recipe: Recipe) -> list[Encoded]:
    """Tokens of a split; what can't be trained on is an error, or leaves the split."""
    part = prepared.split.part(name)
    kept, encoded = encode_all(encoder, part, skip_bad=recipe.data.skip_bad)
    prepared.skipped += len(part) - len(kept)
    part[:] = kept
    return encoded


def _train(job: _Job, resume: Path | None) -> dict[str, Any]:
    settings = job.budget.settings
    model, padder = load_base(
        job.runtime, job.base.path, job.recipe.model, settings.gradient_checkpointing
    )
    if job.recipe.model.load_in_4bit and not is_four_bit(model):
        say("WARNING: 4-bit does not work on this hardware; the base is loaded in 16 bits")
    model = add_adapter(job.runtime, model, settings)
    say(
        f"training {trainable_parameters(model):,} LoRA parameters on {job.runtime.device} in "
        f"{job.runtime.precision}, {job.schedule.steps} steps"
        + (f", going on from {resume.name}" if resume else "")
    )
    started = time.monotonic()
    trainer = _run_steps(job, model, padder, resume)
    seconds = time.monotonic() - started
    best = _load_best(job, trainer)
    draw_curves(trainer.state.log_history, job.run.root / "curves.png", job.run.name)
    # The test split is the benchmark's: training never looks at it.
    held_out = {"eval": held_out_loss(trainer, job.encoded["eval"])} if job.encoded["eval"] else {}
    _save_adapter(job, trainer.model)
    result = _result(job, trainer, seconds, best, held_out, resume)
    _tell_result(result)
    return result


def _run_steps(job: _Job, model: Any, padder: Any, resume: Path | None) -> Any:
    """The trainer after its last step. Raises TrainingStoppedError if it was stopped before."""
    settings = job.budget.settings
    done = int(resume.name.rpartition("-")[2]) if resume else 0
    counts = token_counts(job.encoded["train"])
    per_step = counts["tokens"] / counts["examples"] * settings.batch_size
    left = (job.schedule.steps - done) * per_step * settings.gradient_accumulation
    switch = StopSwitch()
    with progress("training", max(left, 1.0), unit="tokens") as advance, switch.armed():
        callbacks = build_callbacks(
            advance,
            switch,
            patience=settings.early_stopping_patience,
            checkpoint_seconds=60 * settings.checkpoint_minutes,
        )
        trainer = build_trainer(
            job.runtime, model, padder, settings, job.schedule,
            job.encoded["train"], job.draw, job.encoded["eval"],
            checkpoints=job.run.checkpoints, fresh=resume is None, callbacks=callbacks,
        )  # fmt: skip
        callbacks[0].trainer = trainer
        with quiet():
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if switch.pressed and trainer.state.global_step < job.schedule.steps:
        raise TrainingStoppedError(
            f"stopped after step {trainer.state.global_step} of {job.schedule.steps}; it is saved",
            where=str(job.run.root),
            hint="Run the same command again to go on from there.",
        )
    return trainer


def _load_best(job: _Job, trainer: Any) -> int:
    """Put the adapter with the lowest eval loss back into the model; returns its step."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    last: int = trainer.state.global_step
    best: int = trainer.state.best_global_step or last
    if best == last:
        return last
    checkpoint = checkpoint_at(job.run.checkpoints, best)
    if checkpoint is None:
        raise TuneserveError(f"the best checkpoint (step {best}) is gone", where=str(job.run.root))
    set_peft_model_state_dict(trainer.model, load_file(checkpoint / "adapter_model.safetensors"))
    return best


def _save_adapter(job: _Job, model: Any) -> None:
    with atomic_path(job.run.adapter) as directory, quiet(errors_too=True):
        model.save_pretrained(directory)
        job.tokenizer.save_pretrained(directory)
        # PEFT's model card is an empty form for the hub.
        (directory / "README.md").unlink(missing_ok=True)


def _result(
    job: _Job,
    trainer: Any,
    seconds: float,
    best: int,
    held_out: Mapping[str, Mapping[str, float]],
    resume: Path | None,
) -> dict[str, Any]:
    history = trainer.state.log_history
    peak = peak_memory()
    train_seconds = max(seconds - trainer.evaluation_seconds, 1e-9)
    return {
        "base": {"spec": job.base.spec, "path": str(job.base.path), "name": job.base.name},
        "examples": job.prepared.split.counts(),
        "data": describe(job.prepared, job.recipe.data),
        "tokens": {name: token_counts(job.encoded[name]) for name in SPLITS},
        "device": job.runtime.device,
        "precision": job.runtime.precision,
        "trainable_parameters": trainable_parameters(trainer.model),
        "steps": {
            "planned": job.schedule.steps,
            "done": trainer.state.global_step,
            "best": best,
            "resumed_from": int(resume.name.rpartition("-")[2]) if resume else None,
        },
        "losses": {"train": points(history, "loss"), "eval": points(history, EVAL_LOSS)},
        "held_out": dict(held_out),
        "training_seconds": round(train_seconds, 1),
        "evaluation_seconds": round(trainer.evaluation_seconds, 1),
        "tokens_per_second": round(int(trainer.tokens_seen) / train_seconds, 1),
        "peak_memory": peak,
        "memory_plan": {
            "gradient_checkpointing": job.budget.settings.gradient_checkpointing,
            "predicted_bytes": job.budget.predicted,
            "measured_bytes": peak.get("gpu_bytes", peak["resident_bytes"]),
        },
    }


def _tell_split(prepared: Prepared) -> None:
    split = prepared.split
    parts = ", ".join(f"{count:,} {name}" for name, count in split.counts().items())
    removed = split.duplicates + split.straddling
    say(
        f"examples ({', '.join(prepared.shapes)}): {parts}"
        + (f"; {removed:,} duplicates removed" if removed else "")
        + (f"; {prepared.skipped:,} unusable left out" if prepared.skipped else "")
    )


def _tell_tokens(encoded: Mapping[str, list[Encoded]]) -> None:
    counts = token_counts(encoded["train"])
    per = counts["trained_per_example"]
    line = (
        f"training on {counts['trained_tokens']:,} answer tokens of {counts['tokens']:,} "
        f"({per['min']} to {per['max']} an example)"
    )
    if counts["truncated"]:
        line += (
            f"; {counts['truncated']:,} examples are cut to max_seq_length and lose "
            f"{counts['trained_tokens_lost']:,} answer tokens"
        )
    say(line)


def _tell_result(result: Mapping[str, Any]) -> None:
    peak = result["peak_memory"]
    say(
        f"trained {result['steps']['done']} steps in {human_seconds(result['training_seconds'])} "
        f"({result['tokens_per_second']:,.0f} tokens/s), best at step {result['steps']['best']}; "
        f"peak memory {peak['resident_bytes'] / 2**30:.2f} GiB"
        + (f", GPU {peak['gpu_bytes'] / 2**30:.2f} GiB" if "gpu_bytes" in peak else "")
    )
    planned = result["memory_plan"]
    if planned["predicted_bytes"]:
        error = planned["measured_bytes"] / planned["predicted_bytes"] - 1
        say(f"memory: {error:+.0%} against the plan")
    for name, figures in result["held_out"].items():
        say(
            f"{name}: loss {figures['loss']:.4f} per answer token, "
            f"perplexity {figures['perplexity']:.3f}"
        )
