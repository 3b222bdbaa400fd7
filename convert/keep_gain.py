"""What is done where quantization loses the tune: finer types, or the adapter beside the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from pathlib import Path

from tuneserve.console import human_bytes, percent, say
from tuneserve.convert.adapter_files import check_adapter, write_own_base
from tuneserve.convert.gguf.lora import check_applicable, write_lora
from tuneserve.convert.gguf.quantization import UNQUANTIZED
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import CopiedTensor
from tuneserve.convert.mixture.limit import bytes_left
from tuneserve.convert.pair import Pair, Verdict
from tuneserve.convert.repair import Option, choose_repair, finer_options
from tuneserve.convert.verify.gain import GAIN_CONTRACT
from tuneserve.convert.verify.measured import Measured
from tuneserve.errors import UsageError
from tuneserve.files import atomic_path

# Shares of the updates that a repair aims at, one after the other while the gain is not kept.
TARGETS = (0.92, 0.995)
# Where all the room that there is would keep less of the updates, no file is made to see.
HOPELESS = 0.6


def keep_gain(plain: Pair, verdict: Verdict, stack: ExitStack) -> tuple[Pair, Verdict, Path | None]:
    """Make the pair keep the tune that `verdict` says is lost, within `max_growth` and the size
    that auto was given.

    Returns the pair and the verdict on it, with finer types where these are enough. Else the third
    is a LoRA GGUF that goes on the base, entered into `stack`; the pair has no tuned file then.
    Where nothing fits, the pair is as it was and the verdict says which size would do.
    """
    assert verdict.measured.gain is not None
    say(f"convert: quantization loses the tune: {verdict.measured.gain.describe()}")
    settings = plain.plan.settings
    if settings.quantization in UNQUANTIZED:
        return _with_adapter(plain, verdict, stack, None)
    options = finer_options(
        plain.tuned_model, plain.base_model, verdict.measured.updates, plain.importance,
        threads=plain.plan.threads,
    )  # fmt: skip
    size = plain.tuned.stat().st_size
    left = bytes_left(settings, plain.mix, size)
    growth = int((settings.max_growth - 1) * size)
    room = growth if left is None else min(growth, left)
    pair, verdict = _with_finer_types(plain, verdict, options, room)
    if verdict.passed:
        return pair, verdict, None
    pair, verdict, lora = _with_adapter(plain, verdict, stack, left)
    if lora is None and left is not None:
        finer = choose_repair(verdict.measured.updates, options, room=8 * size, target=TARGETS[-1])
        megabytes = ceil((size + finer.size) / 10**6)
        advice = (
            f"size_limit = {settings.size_limit} leaves no room for that: finer types need about "
            f"--size-limit {megabytes}M"
        )
        verdict = verdict.with_advice(GAIN_CONTRACT, advice)
    return pair, verdict, lora


def _with_finer_types(
    plain: Pair, verdict: Verdict, options: Mapping[str, Sequence[Option]], room: int
) -> tuple[Pair, Verdict]:
    """Only the tensors that get another type are made again; where no choice of at most `room`
    bytes more is enough, the pair stays as it is."""
    settings, threads = plain.plan.settings, plain.plan.threads
    reference, updates = verdict.measured.reference, verdict.measured.updates
    tried: list[Mapping[str, str]] = []
    for target in TARGETS:
        repair = choose_repair(updates, options, room=room, target=target)
        if not repair.overrides or repair.overrides in tried or repair.kept < HOPELESS:
            say(
                f"convert: finer types for {human_bytes(room)} more would keep "
                f"{percent(repair.kept, 0)} of the update"
            )
            break
        tried.append(repair.overrides)
        say(
            f"convert: finer types for {len(repair.overrides)} tensors should keep "
            f"{percent(repair.kept, 0)} of the update, for {human_bytes(repair.size)} more"
        )
        finer = replace(
            plain, tuned=plain.tuned.with_name("finer.gguf"),
            base=plain.base.with_name("finer.gguf"), overrides=repair.overrides,
        )  # fmt: skip
        finer.write_tuned(_others(plain.tuned, repair.overrides))
        measured = Measured(reference)
        gain = measured.score(
            finer.tuned, base=plain.base, limit=settings.min_gain_kept, threads=threads
        )
        gain = gain.model_copy(update={"update_kept": repair.kept})
        if not gain.keeps(settings.min_gain_kept):
            say(f"convert: not enough: {gain.describe()}")
            finer.tuned.unlink()
            continue
        finer.write_base(_others(plain.base, repair.overrides))
        for made, final in ((finer.tuned, plain.tuned), (finer.base, plain.base)):
            made.replace(final)
            finer.written[final] = finer.written.pop(made)
        finer = replace(finer, tuned=plain.tuned, base=plain.base)
        return finer, finer.verify(measured)
    return plain, verdict


def _others(path: Path, overrides: Mapping[str, str]) -> dict[str, CopiedTensor]:
    """The tensors of a file whose type stays, to be copied byte for byte."""
    file = TensorFile(path)
    return {name: CopiedTensor(file, name) for name in file.tensors if name not in overrides}


def _with_adapter(
    plain: Pair, verdict: Verdict, stack: ExitStack, left: int | None
) -> tuple[Pair, Verdict, Path | None]:
    """The adapter as a GGUF, of at most `left` bytes, on the quantized base, which is nothing but
    the base: nothing of the tune is rounded to its grid."""
    plan = plain.plan
    try:
        check_applicable(plain.tuned_model.checkpoint)
    except UsageError as error:
        say(f"convert: the adapter can't stay beside its base: {'; '.join(error.problems)}")
        return plain, verdict, None
    pair = replace(plain, overrides={})
    lora = stack.enter_context(atomic_path(plan.run.lora_gguf))
    write_lora(lora, pair.tuned_model, plan.run.name)
    if left is not None and (size := lora.stat().st_size) > left:
        say(f"convert: the adapter beside its base takes {human_bytes(size)} more")
        return plain, verdict, None
    say("convert: the adapter stays beside the quantized base, as a GGUF of its own")
    write_own_base(plan, pair.base_model, pair.base, matrix=pair.matrix)
    measured = Measured(verdict.measured.reference)
    checks, sample = check_adapter(plan, pair.tuned_model, lora, pair.base, measured)
    pair.tuned.unlink()
    return pair, Verdict(checks, sample, measured), lora
