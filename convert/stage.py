"""The convert stage of a run: adapter in, verified GGUFs of tuned and base out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tuneserve.base.import_gguf import CHECKPOINT_FILES
from tuneserve.changes import changed_settings, with_defaults
from tuneserve.console import say
from tuneserve.convert.make import make_files
from tuneserve.convert.model_card import check_handover, set_aside_edited, write_handover
from tuneserve.convert.plan import Plan, plan_of
from tuneserve.convert.result import ConvertResult, verified_hash
from tuneserve.errors import OutputExistsError, TuneserveError
from tuneserve.files import check_replaceable, sha256_file
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings
from tuneserve.signals import ended_by_sigterm

Make = Callable[[Plan, Callable[[], None]], ConvertResult]
"""Writes and verifies the files of a plan; calls the other before they replace older ones."""


def convert(
    run: RunDirectory,
    settings: ConvertSettings,
    *,
    force: bool = False,
    skip_done: bool = False,
    make: Make = make_files,
) -> ConvertResult:
    """Merge, write, quantize and verify; returns the stage's result as kept in run.json.

    `make` writes and verifies the files.
    Raises OutputExistsError before any slow work if there is a result already (unless `force`, or
    `skip_done` and it was made from the same inputs with the same settings), UsageError if a file
    of the user's is in its way, VerificationError if the result fails verification: then nothing
    is left under the final names.
    """
    plan = plan_of(run, settings)
    if not force:
        done = _existing_result(plan, skip_done=skip_done)
        if done is not None:
            run.tidy()
            say(f"convert: done already with the same settings: {plan.tuned}")
            return done
    check_handover(run)
    before = _handed_over(run)
    if settings.merged_checkpoint:
        check_replaceable(plan.merged, CHECKPOINT_FILES, what="checkpoint")
    with ended_by_sigterm(), run.alone(), run.stage("convert", keep=True) as running:
        result = make(plan, running.withdraw)
        set_aside_edited(run, before)
        written = write_handover(run, result, plan.base_name)
        hashes = {name: sha256_file(run.gguf / name) for name in written}
        result = result.model_copy(update={"handover": written, "handover_sha256": hashes})
        running.result = result
    return result


def _handed_over(run: RunDirectory) -> Mapping[str, str]:
    """SHA-256 of what the conversion before wrote beside its GGUFs, by name."""
    try:
        result = run.finished("convert", ConvertResult)
    except TuneserveError:
        return {}  # a damaged result, which is made anew
    return {} if result is None else result.handover_sha256


def _existing_result(plan: Plan, *, skip_done: bool) -> ConvertResult | None:
    """The finished result if it may stand; None if there is nothing in the way."""
    result = plan.run.finished("convert", ConvertResult) if skip_done else None
    as_adapter = result is not None and result.as_adapter
    outputs = plan.outputs(as_adapter=as_adapter)
    existing = [path for path in outputs if path.exists()]
    if not existing:
        return None
    if skip_done and result is None:
        return None  # a conversion was killed between its files and its record
    if result is not None and len(existing) == len(outputs):
        same = result.settings == plan.settings.model_dump(mode="json")
        if same and result.inputs == plan.inputs():
            verified_hash(outputs[0], result.tuned, plan.run)
            verified_hash(plan.base, result.base, plan.run)
            return result
    made = result or plan.run.finished("convert", ConvertResult)
    raise OutputExistsError(existing[0], problems=_how_made(existing[0], made, plan))


def _how_made(path: Path, made: ConvertResult | None, plan: Plan) -> list[str]:
    """What a GGUF that is in the way is of, where it is not what the plan makes; `made`: the last
    conversion."""
    if made is None:
        return ["it is of an earlier training, or of a conversion that was not recorded"]
    if path.name not in {Path(file.path).name for file in (made.tuned, made.base)}:
        return [f"it is of an earlier conversion; the last one made {Path(made.tuned.path).name}"]
    changed = changed_settings(
        with_defaults({"convert": made.settings}),
        {"convert": plan.settings.model_dump(mode="json")},
    )
    return changed + made.inputs.changed(plan.inputs())
