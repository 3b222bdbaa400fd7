"""`tuneserve convert --adapter-only`: the adapter as a GGUF beside the base's, both verified."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tuneserve.chat.examples import read_split
from tuneserve.console import say
from tuneserve.convert.gguf.lora import write_lora
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import AUTO, NEEDS_IMATRIX
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.result import AdapterResult, Check
from tuneserve.convert.slabs import one_blas_thread
from tuneserve.convert.stage import Plan, checked_models, plan_of
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.verify import (
    TOKEN_EXAMPLES,
    VerificationError,
    check_near,
    choose_sequences,
    vocabulary_checks,
)
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.divergence import divergence
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.files import atomic_path, sha256_file
from tuneserve.records import parse
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings


def convert_adapter(
    run: RunDirectory, settings: ConvertSettings, *, force: bool = False, skip_done: bool = False
) -> AdapterResult:
    """Write the LoRA GGUF, and the base's if it is not there yet; kept in run.json as "lora".

    Raises OutputExistsError if there is one already (unless `force`, or `skip_done` and it was made
    from the same inputs), UsageError for an adapter that llama.cpp can't apply, VerificationError
    if the two files don't do what training did: then nothing new is left under the final names.
    """
    plan = plan_of(run, settings)
    target = run.lora_gguf
    if target.exists() and not force:
        done = _finished_result(run) if skip_done else None
        if done is not None and plan.base.exists() and done.inputs == plan.inputs():
            say(f"convert: done already: {target}")
            return done
        raise OutputExistsError(target)
    if settings.quantization in (AUTO, *NEEDS_IMATRIX) and not plan.base.exists():
        raise UsageError(
            f"a base of type {settings.quantization} is made with the merged model only",
            where="quantization",
            hint="Run convert without --adapter-only first, or choose another type.",
        )
    tuned, base = checked_models(plan)
    with run.alone(), ExitStack() as files:
        made = files.enter_context(atomic_path(target))
        write_lora(made, tuned, run.name)
        made_base = plan.base
        if not made_base.exists():
            made_base = files.enter_context(atomic_path(plan.base))
            write_quantized(base, made_base, settings.quantization, threads=plan.threads)
        checks = _checks(plan, tuned, made, made_base)
        if not all(check.passed for check in checks):
            raise VerificationError(checks, str(target))
        result = AdapterResult(
            path=str(target), size_bytes=made.stat().st_size, sha256=sha256_file(made),
            base=str(plan.base), verification=checks, inputs=plan.inputs(),
        )  # fmt: skip
    run.update(lora=result.to_json())
    return result


def _finished_result(run: RunDirectory) -> AdapterResult | None:
    made = run.read().lora
    if not made:
        return None
    return parse(
        AdapterResult,
        made,
        where=f"{run.record_path}, 'lora'",
        hint=f"Make it again: tuneserve convert --run {run.name} --adapter-only --force",
    )


def _checks(plan: Plan, tuned: GGUFModel, lora: Path, base: Path) -> list[Check]:
    from tuneserve.convert.verify.reference import reference_logits

    trainer = TrainerTokenizer(plan.run.adapter, thoughts=plan.run.thoughts)
    examples = read_split(plan.run.split("test"), limit=TOKEN_EXAMPLES)
    _, sequences = choose_sequences(trainer, examples, tuned.vocabulary_size)
    with one_blas_thread():
        say("verify: token ids, chat template")
        checks = vocabulary_checks(base, trainer, examples)
        say("verify: the trainer's logits (adapter on base)")
        _, trained, _ = reference_logits(tuned, plan.run.adapter, sequences, threads=plan.threads)
        say("verify: the logits of base and LoRA GGUF")
        plain = file_logits(base, sequences, threads=plan.threads)
        adapted = file_logits(base, sequences, threads=plan.threads, lora=lora)
    near = check_near(
        "base + LoRA ≈ adapter on base", trained, adapted, plan.settings.max_quantized_kld
    )
    lost, without = near.figures["mean_kld"], divergence(trained, plain).mean
    acts = Check(
        "the LoRA acts", lost < without,
        f"KL divergence from the trained model {lost:.2e} with it, {without:.2e} without",
        {"kld_with": lost, "kld_without": without},
    )  # fmt: skip
    return [*checks, near, acts]
