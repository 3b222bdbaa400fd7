"""All that can fail in a conversion without trained weights, for a base and a recipe.

What depends on something that is refused is left out; everything else is looked at, so that all
that is wrong is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tuneserve.base import ResolvedBase, hub_config, is_hub_id, resolve_base
from tuneserve.base.window import beyond_window, within_window
from tuneserve.chat.examples import Example
from tuneserve.console import human_bytes, percent
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import AUTO
from tuneserve.convert.gguf.writer import encoded_size
from tuneserve.convert.grid import share_on_grid
from tuneserve.convert.make import fallbacks
from tuneserve.convert.merge.applied import EMBEDDING
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.merge_base import check_merge_base
from tuneserve.convert.mixture import check_limit
from tuneserve.convert.plan import needed_disk
from tuneserve.convert.preflight.computation import check_computation
from tuneserve.convert.preflight.configuration import Value, check_configuration, tried
from tuneserve.convert.preflight.numbers import check_numbers
from tuneserve.convert.preflight.rounded import check_rounded
from tuneserve.convert.preflight.shapes import check_shapes
from tuneserve.convert.preflight.untrainable import check_trainable
from tuneserve.convert.preflight.vocabulary import (
    check_vocabulary,
    save_tokenizer,
    write_vocabulary,
)
from tuneserve.convert.resources import SPARE_DISK, check_memory, free_disk, worker_threads
from tuneserve.convert.route import check_quantization
from tuneserve.convert.upstream import needed_by_converter, run_converter, stage_checkpoint
from tuneserve.errors import TuneserveError
from tuneserve.findings import Finding
from tuneserve.gguf.architectures.computed import ignored_window
from tuneserve.settings import ConvertSettings, Recipe, TrainSettings

# From this share of the weights on, a base is taken for one that was quantized to the same type.
_MUCH_ON_GRID = 0.1
MERGE_BASE = "convert.merge_base"
_ENDS = {"embed_tokens", "lm_head"}


def check_conversion(
    recipe: Recipe,
    base: ResolvedBase,
    examples: Sequence[Example],
    *,
    place: Path,
    quantizes: bool = True,
    trains: bool = False,
) -> list[Finding]:
    """What converting a training of this recipe on this base would meet.

    `examples`: a sample of the data; `place`: where the run will be; `quantizes`: a small base is
    quantized as a whole; `trains`: a training follows. A finding that is 'refused' would fail the
    conversion. Raises UntrainableError for examples that the training that follows would refuse.
    """
    found: list[Finding] = []
    settings = recipe.convert
    where = str(base.path)
    if other := settings.merge_base:
        tried(found, "merge base", lambda: check_merge_base(base.path, _merge_base(other)), "")
    checkpoint = tried(found, "base", lambda: MergedCheckpoint(base.path), where)
    if checkpoint is None:
        return found
    architecture = tried(found, "architecture", lambda: checkpoint.architecture, where)
    if architecture is None:
        return found
    by_converter = check_configuration(found, architecture, checkpoint.config, settings, where)
    if by_converter is None:
        return found
    how = f", by {settings.converter}" if by_converter else ""
    if not by_converter:
        found += _window(checkpoint, recipe)
    found.append(Finding("architecture", "ok", f"{architecture}{how}"))
    with TemporaryDirectory(prefix="tuneserve-") as name:
        folder = Path(name)
        tokenizer, gguf = folder / "tokenizer", folder / "vocabulary.gguf"
        model: GGUFModel | None = None

        def step(what: str, work: Callable[[], Value]) -> Value | None:
            return tried(found, what, work, where, folder)

        loaded = step("tokenizer", lambda: save_tokenizer(base.path, recipe.model, tokenizer))
        if loaded is None:
            return found
        if trains:
            check_trainable(within_window(recipe, checkpoint.config, told=False), loaded, examples)
        if by_converter:
            written = step(
                "converter", lambda: _converted_vocabulary(settings, checkpoint, tokenizer, gguf)
            )
            step("disk", lambda: _disk(place, needed_by_converter(checkpoint, settings), found))
        else:
            model = step(
                "tensors and vocabulary",
                lambda: GGUFModel(checkpoint, tokenizer, name=base.name),
            )
            if model is None:
                return found
            size = f"{len(model.sources):,} tensors, {len(model.vocabulary.tokens):,} tokens"
            found.append(Finding("tensors and vocabulary", "ok", size))
            step("shapes", lambda: check_shapes(model))
            written = step("metadata", lambda: write_vocabulary(model, gguf))
            step("quantization", lambda: _quantization(model, settings, found))
            needed = needed_disk(settings, model, model) + _untied_bytes(model, recipe.train)
            step("disk", lambda: _disk(place, needed, found))
            step("memory", lambda: _memory(settings, found))
        if (numbers := step("weights", lambda: check_numbers(base.path))) is not None:
            found.append(numbers)
        if written is not None:
            checks = step(
                "tokens",
                lambda: list(check_vocabulary(gguf, tokenizer, examples, recipe.data)),
            )
            found += checks or []
        # It takes seconds, so that it comes last and only where nothing else is in the way.
        if model is not None and all(one.status != "refused" for one in found):
            whole, limit, threads = model, settings.max_kld, worker_threads(settings)
            found += (
                step(
                    "computation",
                    lambda: check_computation(whole, tokenizer, gguf, limit=limit, threads=threads),
                )
                or []
            )
        if quantizes and model is not None and all(one.status != "refused" for one in found):
            whole = model
            rounded = step(
                "quantized base",
                lambda: check_rounded(whole, tokenizer, examples, recipe, folder),
            )
            found += [rounded] if rounded else []
    found.append(_adapter(recipe.train, checkpoint))
    if recipe.data.test_fraction == 0:
        found.append(_no_held_out(recipe))
    return found


def _window(checkpoint: MergedCheckpoint, recipe: Recipe) -> list[Finding]:
    """A length of texts that training and llama.cpp would not compute alike; or a sliding window
    that llama.cpp computes without, which longer texts would show."""
    config = checkpoint.config
    if refused := beyond_window(within_window(recipe, config, told=False), config):
        return [refused]
    window = ignored_window(config)
    if window is None:
        return []
    return [
        Finding(
            "window", "note", "config.json: sliding_window: llama.cpp computes without a window, "
            f"this model with one of {window} tokens",
            f"Serve it with at most {window} tokens of context.",
        )
    ]  # fmt: skip


def _merge_base(given: str) -> Path:
    """A folder with the config.json of another base to merge into."""
    if is_hub_id(given):
        return hub_config(given, setting=MERGE_BASE).parent
    return resolve_base(given, setting=MERGE_BASE).path


def _converted_vocabulary(
    settings: ConvertSettings, checkpoint: MergedCheckpoint, tokenizer: Path, gguf: Path
) -> Path:
    """Let the converter write the vocabulary alone, of the base with the saved tokenizer."""
    assert settings.converter is not None
    staged = stage_checkpoint(checkpoint.directory, tokenizer, gguf.with_name("checkpoint"))
    run_converter(settings.converter, staged, gguf, vocabulary_only=True)
    return gguf


def _quantization(model: GGUFModel, settings: ConvertSettings, found: list[Finding]) -> bool:
    """Does the base lie on the grid of the type, which a small update does not leave?"""
    check_quantization(settings)
    if settings.quantization == AUTO:
        check_limit(model, settings)
    found.append(_types(model, settings))
    share = share_on_grid(model, settings.quantization)
    if share >= _MUCH_ON_GRID:
        helps = "keep_gain gives finer types to what loses most, or the adapter its own GGUF"
        if not settings.keep_gain:
            helps = "set [convert] keep_gain = true, or convert with --adapter-only"
        found.append(
            Finding(
                "quantized base", "note", f"{percent(share, 0)} of its weights are rounded to this "
                "type's grid already: a small update is lost when they are rounded again",
                f"{helps}.",
            )
        )  # fmt: skip
    return True


def _types(model: GGUFModel, settings: ConvertSettings) -> Finding:
    """Which tensors the quantization gives another type than its own."""
    changed = fallbacks(model.choices(settings.quantization))
    if not changed:
        return Finding("quantization", "ok", settings.quantization)
    shown = ", ".join(f"{count} x {change}" for change, count in changed.items())
    return Finding(
        "quantization", "note", f"{settings.quantization}; {shown}: the rows of these tensors are "
        "no multiple of the first type's block",
        "The file is larger than this type's usual size.",
    )  # fmt: skip


def _untied_bytes(model: GGUFModel, train: TrainSettings) -> int:
    """What the tuned file holds more, where training makes embedding and output differ."""
    if not model.checkpoint.tied or not _ENDS & {*train.modules_to_save, *train.target_modules}:
        return 0
    return encoded_size(model.checkpoint.shape(EMBEDDING), "F16")


def _disk(place: Path, needed: int, found: list[Finding]) -> bool:
    free = free_disk(place)
    if free < needed + SPARE_DISK:
        raise TuneserveError(
            f"the conversion will need {human_bytes(needed + SPARE_DISK)}, "
            f"{human_bytes(free)} are free",
            where=str(place), hint="Make room on that disk, or start in a folder on another.",
        )  # fmt: skip
    found.append(Finding("disk", "ok", f"{human_bytes(needed)} of {human_bytes(free)} free"))
    return True


def _memory(settings: ConvertSettings, found: list[Finding]) -> bool:
    check_memory(worker_threads(settings))
    found.append(Finding("memory", "ok", "enough for the conversion"))
    return True


def _adapter(train: TrainSettings, checkpoint: MergedCheckpoint) -> Finding:
    """Can the adapter be merged, and can it be a GGUF of its own?"""
    reasons = []
    if train.use_dora:
        reasons.append("use_dora")
    if train.modules_to_save:
        reasons.append("modules_to_save")
    if checkpoint.tied and _ENDS & {*train.target_modules}:
        reasons.append("an adapter on the embedding, which is the output too")
    if train.bias != "none":
        reasons.append(f"bias = {train.bias!r}")
    if reasons:
        return Finding(
            "adapter", "note", f"it can be merged, but be no GGUF of its own: {', '.join(reasons)}",
            "Leave that out if `convert --adapter-only` is wanted.",
        )  # fmt: skip
    return Finding("adapter", "ok", "it can be merged, or be a GGUF of its own")


def _no_held_out(recipe: Recipe) -> Finding:
    instead = "eval" if recipe.data.eval_fraction else "training"
    return Finding(
        "held-out examples", "note", "none (data.test_fraction = 0): the conversion is verified "
        f"with {instead} examples, and there is nothing to benchmark with",
        "Hold some out: test_fraction = 0.1.",
    )  # fmt: skip
