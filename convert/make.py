"""The files of a conversion, step by step: written, verified, and where quantization loses the
tune, made so that it is kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tuneserve.console import bytes_per_second, progress
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import AUTO, Choice
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import CopiedTensor
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.keep_gain import keep_gain
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.writer import checkpoint_bytes, write_checkpoint
from tuneserve.convert.mixture import choose_mix
from tuneserve.convert.pair import Pair, Verdict
from tuneserve.convert.plan import Plan, checked_models
from tuneserve.convert.quantize import (
    measure_importance,
    temporary_quantization,
    write_quantized,
)
from tuneserve.convert.resources import uses_imatrix
from tuneserve.convert.result import ConvertResult, GGUFRecord, MergedInto, Mix
from tuneserve.convert.verify import VerificationError
from tuneserve.convert.verify.measured import Measured
from tuneserve.files import atomic_path, sha256_file


class Clock:
    """Seconds of each part of the work, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Record the time since the last call under this name."""
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


def make_files(plan: Plan, withdraw: Callable[[], None]) -> ConvertResult:
    """Write and verify the files; `withdraw` is called before they replace older ones.

    Raises what `checked_models` does, and VerificationError if they fail verification: then nothing
    is left.
    """
    tuned, base = checked_models(plan)
    clock = Clock()
    with ExitStack() as stack:
        # The files get their names when this block ends well, after the verification.
        pair = _write_files(plan, tuned, base, stack, clock)
        verdict = pair.verify(Measured())
        clock.lap("verify")
        before, lora = None, None
        if plan.settings.keep_gain and verdict.lost_only(
            # Where all of it is lost, the files are the same.
            [f"{plan.settings.quantization} ≈ merged", "changed tensors"]
        ):
            before = verdict.measured.gain
            pair, verdict, lora = keep_gain(pair, verdict, stack)
            clock.lap("keep the gain")
        if not verdict.passed:
            raise VerificationError(verdict.checks, str(plan.tuned))
        result = _result(pair, verdict, lora, clock)
        result = result.model_copy(update={"before_repair": before})
        withdraw()
        if lora is not None:
            # An earlier conversion's: it would be taken for this one's.
            plan.tuned.unlink(missing_ok=True)
        return result


def _write_files(
    plan: Plan, tuned: GGUFModel, base: GGUFModel, stack: ExitStack, clock: Clock
) -> Pair:
    """Both GGUFs, and what else the settings ask for."""
    settings = plan.settings
    pair = Pair(
        plan, tuned, base,
        stack.enter_context(_path_if_wanted(plan.tuned)),
        stack.enter_context(atomic_path(plan.base)),
    )  # fmt: skip
    if settings.keep_f16 and settings.quantization != "F16":
        pair = replace(pair, f16=stack.enter_context(atomic_path(plan.f16)))
        assert pair.f16 is not None
        write_quantized(
            tuned, pair.f16, "F16",
            threads=plan.threads, digests=pair.written.setdefault(pair.f16, {}),
        )  # fmt: skip
    if uses_imatrix(settings):
        # One matrix for both, so that the weights that training left alone stay equal in both.
        matrix, mix = _measured(plan, tuned, base, stack)
        pair = replace(pair, matrix=matrix, mix=mix)
        if mix is not None:
            tuned.mix = base.mix = mix.types
    if settings.merged_checkpoint:
        pair = replace(pair, checkpoint=stack.enter_context(atomic_path(plan.merged)))
        assert pair.checkpoint is not None
        _write_checkpoint(plan, tuned.checkpoint, pair.checkpoint)
    clock.lap("before the GGUF")
    pair.write_tuned()
    clock.lap("merge and quantize")
    pair.write_base(copied_tensors(TensorFile(pair.tuned), tuned.changed, pair.choices(base)))
    clock.lap("quantize the base")
    return pair


class _UnwantedError(Exception):
    """A file is not to get its name."""


@contextmanager
def _path_if_wanted(final: Path) -> Iterator[Path]:
    """`atomic_path` for a file that may turn out not to be wanted: removed, it leaves `final` as it
    was."""
    try:
        with atomic_path(final) as temporary:
            yield temporary
            if not temporary.exists():
                raise _UnwantedError
    except _UnwantedError:
        pass


def _result(pair: Pair, verdict: Verdict, lora: Path | None, clock: Clock) -> ConvertResult:
    """`lora`: the LoRA GGUF that goes on the base, instead of a tuned file."""
    plan = pair.plan
    quantization = plan.settings.quantization
    choices = pair.choices(pair.tuned_model if lora is None else pair.base_model)
    tuned = (
        described(pair.tuned, plan.tuned, quantization, pair.mixture)
        if lora is None
        else described(lora, plan.run.lora_gguf, "F16")
    )
    weights = pair.tuned_model.checkpoint.kind
    result = ConvertResult(
        tuned=tuned,
        base=described(pair.base, plan.base, quantization, pair.mixture),
        as_adapter=lora is not None,
        gain=verdict.measured.gain,
        tensor_types=dict(Counter(choice.type for choice in choices)),
        fallbacks=fallbacks(choices),
        verification=verdict.checks,
        sample=verdict.sample,
        seconds=clock.laps,
        settings=plan.settings.model_dump(mode="json"),
        inputs=plan.inputs(),
        merged_into=MergedInto(path=str(plan.base_checkpoint), weights=weights),
        updates=verdict.measured.updates,
        overrides=dict(pair.overrides),
        mix=pair.mix,
    )
    if plan.settings.merged_checkpoint:
        result = result.model_copy(update={"merged_checkpoint": str(plan.merged)})
    return result


def _write_checkpoint(plan: Plan, merged: MergedCheckpoint, target: Path) -> None:
    total = checkpoint_bytes(merged)
    with progress("write the merged checkpoint", total, rate=bytes_per_second) as advance:
        write_checkpoint(target, merged, plan.run.adapter, threads=plan.threads, advance=advance)


def _measured(
    plan: Plan, tuned: GGUFModel, base: GGUFModel, stack: ExitStack
) -> tuple[ImportanceMatrix, Mix | None]:
    """The importance matrix of the training examples, which is kept beside the GGUFs, and the types
    that AUTO stands for, if it is asked for.

    Measured on a temporary file.
    """
    made = stack.enter_context(atomic_path(plan.imatrix))
    # In the temporary folder of the matrix, which is cleared whatever happens.
    path = made.with_name("for-imatrix.gguf")
    write_quantized(tuned, path, temporary_quantization(tuned), threads=plan.threads)
    matrix = measure_importance(path, plan.run, plan.settings.imatrix_tokens, threads=plan.threads)
    matrix.write(made)
    mix = None
    if plan.settings.quantization == AUTO:
        mix = choose_mix(path, tuned, base, plan.run, matrix, plan.settings, threads=plan.threads)
    path.unlink()
    return matrix, mix


def copied_tensors(
    tuned: TensorFile, changed: set[str], choices: Sequence[Choice]
) -> dict[str, CopiedTensor]:
    """Of the base's `choices`, what the tuned file holds already: the same type, no adapter."""
    return {
        choice.name: CopiedTensor(tuned, choice.name)
        for choice in choices
        if choice.name in tuned.tensors
        and choice.name not in changed
        and tuned.type_name(choice.name) == choice.type
    }


def fallbacks(choices: Sequence[Choice]) -> dict[str, int]:
    """How many tensors got another type because of their row length: {'Q4_K → Q5_0': 180}."""
    return dict(Counter(f"{c.wanted} → {c.type}" for c in choices if c.wanted))


def described(made: Path, final: Path, quantization: str, mixture: str = "") -> GGUFRecord:
    """The record of a file that gets the name `final`."""
    return GGUFRecord(
        path=str(final),
        size_bytes=made.stat().st_size,
        sha256=sha256_file(made),
        quantization=quantization,
        mixture=mixture,
    )
