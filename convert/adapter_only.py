"""`tuneserve convert --adapter-only`: the adapter as a GGUF beside the base's, both verified."""

from __future__ import annotations

from contextlib import ExitStack

from tuneserve.console import say
from tuneserve.convert.adapter_files import check_adapter, write_own_base
from tuneserve.convert.gguf.lora import write_lora
from tuneserve.convert.gguf.quantization import AUTO, NEEDS_IMATRIX
from tuneserve.convert.plan import checked_models, plan_of
from tuneserve.convert.result import AdapterResult
from tuneserve.convert.verify.measured import Measured
from tuneserve.convert.verify.verify import VerificationError
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.files import atomic_path, sha256_file
from tuneserve.records import parse
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings
from tuneserve.signals import ended_by_sigterm


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
        done = _finished_result(run)
        changed = done.inputs.changed(plan.inputs()) if done else []
        if skip_done and done and plan.base.exists() and not changed:
            run.tidy()
            say(f"convert: done already: {target}")
            return done
        raise OutputExistsError(target, problems=changed)
    if settings.quantization in (AUTO, *NEEDS_IMATRIX) and not plan.base.exists():
        raise UsageError(
            f"a base of type {settings.quantization} is made with the merged model only",
            where="quantization",
            hint="Run convert without --adapter-only first, or choose another type.",
        )
    tuned, base = checked_models(plan)
    with ended_by_sigterm(), run.alone(), ExitStack() as files:
        made = files.enter_context(atomic_path(target))
        write_lora(made, tuned, run.name)
        made_base = plan.base
        if not made_base.exists():
            made_base = files.enter_context(atomic_path(plan.base))
            write_own_base(plan, base, made_base)
        measured = Measured()
        checks, _ = check_adapter(plan, tuned, made, made_base, measured)
        if not all(check.passed for check in checks):
            raise VerificationError(checks, str(target))
        result = AdapterResult(
            path=str(target), size_bytes=made.stat().st_size, sha256=sha256_file(made),
            base=str(plan.base), verification=checks, inputs=plan.inputs(), gain=measured.gain,
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
