"""What is done where quantization loses the tune: finer types, or the adapter beside the base."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tuneserve.console import human_bytes, say
from tuneserve.convert.adapter_files import check_adapter, write_own_base
from tuneserve.convert.gguf.lora import check_applicable, write_lora
from tuneserve.convert.gguf.quantization import UNQUANTIZED
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import CopiedTensor
from tuneserve.convert.pair import Pair, Verdict
from tuneserve.convert.repair import choose_repair, finer_options
from tuneserve.convert.verify.measured import Measured
from tuneserve.errors import UsageError
from tuneserve.files import atomic_path

# Shares of the updates that a repair aims at, one after the other while the gain is not kept.
TARGETS = (0.92, 0.995)
# Where all the room that there is would keep less of the updates, no file is made to see.
HOPELESS = 0.6


def keep_gain(plain: Pair, verdict: Verdict, stack: ExitStack) -> tuple[Pair, Verdict, Path | None]:
    """Make the pair keep the tune that `verdict` says is lost.

    Returns the pair and the verdict on it, with finer types where these are enough within the size
    that is allowed. Else the third is a LoRA GGUF that goes on the base, entered into `stack`; the
    pair has no tuned file then.
    """
    assert verdict.measured.gain is not None
    say(f"convert: quantization loses the tune: {verdict.measured.gain.describe()}")
    if plain.plan.settings.quantization not in UNQUANTIZED:
        pair, verdict = _with_finer_types(plain, verdict)
        if verdict.passed:
            return pair, verdict, None
    return _with_adapter(plain, verdict, stack)


def _with_finer_types(plain: Pair, verdict: Verdict) -> tuple[Pair, Verdict]:
    """Only the tensors that get another type are made again; where no choice is enough, the pair
    stays as it is."""
    settings, threads = plain.plan.settings, plain.plan.threads
    reference, updates = verdict.measured.reference, verdict.measured.updates
    options = finer_options(
        plain.tuned_model, plain.base_model, updates, plain.importance, threads=threads
    )
    room = int((settings.max_growth - 1) * plain.tuned.stat().st_size)
    tried: list[Mapping[str, str]] = []
    for target in TARGETS:
        repair = choose_repair(updates, options, room=room, target=target)
        if not repair.overrides or repair.overrides in tried or repair.kept < HOPELESS:
            say(
                f"convert: finer types within max_growth {settings.max_growth:g} would keep "
                f"{repair.kept:.0%} of the update"
            )
            break
        tried.append(repair.overrides)
        say(
            f"convert: finer types for {len(repair.overrides)} tensors should keep "
            f"{repair.kept:.0%} of the update, for {human_bytes(repair.size)} more"
        )
        finer = replace(
            plain, tuned=plain.tuned.with_name("finer.gguf"),
            base=plain.base.with_name("finer.gguf"), overrides=repair.overrides,
        )  # fmt: skip
        finer.write_tuned(_others(plain.tuned, repair.overrides))
        measured = Measured(reference)
        gain = measured.score(finer.tuned, threads=threads)
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
    plain: Pair, verdict: Verdict, stack: ExitStack
) -> tuple[Pair, Verdict, Path | None]:
    """The adapter as a GGUF on the quantized base, which is nothing but the base: nothing of the
    tune is rounded to its grid."""
    plan = plain.plan
    try:
        check_applicable(plain.tuned_model.checkpoint)
    except UsageError as error:
        say(f"convert: the adapter can't stay beside its base: {'; '.join(error.problems)}")
        return plain, verdict, None
    say("convert: the adapter stays beside the quantized base, as a GGUF of its own")
    pair = replace(plain, overrides={})
    lora = stack.enter_context(atomic_path(plan.run.lora_gguf))
    write_lora(lora, pair.tuned_model, plan.run.name)
    write_own_base(plan, pair.base_model, pair.base, matrix=pair.matrix)
    measured = Measured(verdict.measured.reference)
    checks, sample = check_adapter(plan, pair.tuned_model, lora, pair.base, measured)
    pair.tuned.unlink()
    return pair, Verdict(checks, sample, measured), lora
