"""The convert stage of a run: adapter in, verified GGUFs of tuned and base out."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tuneserve.base import check_checkpoint, resolve_base
from tuneserve.chat.examples import read_split
from tuneserve.console import bytes_per_second, progress, say
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import CopiedTensor
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.writer import checkpoint_bytes, write_checkpoint
from tuneserve.convert.model_card import write_handover
from tuneserve.convert.quantize import (
    measure_importance,
    planned_bytes,
    temporary_quantization,
    write_quantized,
)
from tuneserve.convert.resources import check_disk, check_memory, uses_imatrix, worker_threads
from tuneserve.convert.result import ConvertInputs, ConvertResult, GGUFRecord, MergedInto
from tuneserve.convert.verify import Candidate, VerificationError, verify
from tuneserve.convert.verify.logits import PROBE_BYTES
from tuneserve.convert.verify.verify import TOKEN_EXAMPLES
from tuneserve.errors import OutputExistsError
from tuneserve.files import PARTIAL_SUFFIX, atomic_path, sha256_file
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings


@dataclass(frozen=True)
class Plan:
    """What a conversion of this run will read and write."""

    run: RunDirectory
    settings: ConvertSettings
    base_checkpoint: Path
    base_name: str

    @property
    def tuned(self) -> Path:
        return self.run.tuned_gguf(self.settings.quantization)

    @property
    def base(self) -> Path:
        return self.run.base_gguf(self.settings.quantization)

    @property
    def f16(self) -> Path:
        return self.run.tuned_gguf("F16")

    @property
    def imatrix(self) -> Path:
        return self.run.gguf / f"{self.run.name}.imatrix.gguf"

    @property
    def merged(self) -> Path:
        """The merged Hugging Face checkpoint, if it is asked for."""
        return self.run.root / "merged"

    @property
    def threads(self) -> int:
        return worker_threads(self.settings)

    def outputs(self) -> list[Path]:
        """What must not be there already."""
        merged = [self.merged] if self.settings.merged_checkpoint else []
        return [self.tuned, self.base, *merged]

    def inputs(self) -> ConvertInputs:
        """What the result depends on, for telling whether it is still up to date."""
        names = ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json",
                 "tokenizer_config.json", "chat_template.jinja")  # fmt: skip
        files = [self.run.adapter / name for name in names]
        return ConvertInputs(
            base=str(self.base_checkpoint),
            adapter={path.name: sha256_file(path) for path in files if path.is_file()},
        )


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


def convert(
    run: RunDirectory, settings: ConvertSettings, *, force: bool = False, skip_done: bool = False
) -> ConvertResult:
    """Merge, write, quantize and verify; returns the stage's result as kept in run.json.

    Raises OutputExistsError before any slow work if there is a result already (unless `force`, or
    `skip_done` and it was made from the same inputs with the same settings), VerificationError if
    the result fails verification: then nothing is left under the final names.
    """
    plan = plan_of(run, settings)
    if not force:
        done = _existing_result(plan, skip_done=skip_done)
        if done is not None:
            say(f"convert: done already with the same settings: {plan.tuned}")
            return done
    with run.alone(), run.stage("convert", keep=True) as running:
        result = _make(plan, *checked_models(plan), running.withdraw)
        result = result.model_copy(update={"handover": write_handover(run, result, plan.base_name)})
        running.result = result
    return result


def plan_of(run: RunDirectory, settings: ConvertSettings) -> Plan:
    """What a conversion of this trained run will read and write."""
    trained = run.require_stage("train", TrainOutput).base
    if settings.merge_base:
        base = resolve_base(settings.merge_base)
        return Plan(run, settings, base.path, base.name)
    return Plan(run, settings, Path(trained.path), trained.name)


def checked_models(plan: Plan) -> tuple[GGUFModel, GGUFModel]:
    """Tuned and base. Raises UsageError or TuneserveError for all that can be known to be wrong
    before slow work starts: base, adapter, tokenizer, held-out examples, memory, disk."""
    check_checkpoint(plan.base_checkpoint)
    read_split(plan.run.split("test"), limit=TOKEN_EXAMPLES)
    adapter = plan.run.adapter
    base = MergedCheckpoint(plan.base_checkpoint)
    tuned = MergedCheckpoint(plan.base_checkpoint, Adapter(adapter))
    models = (
        GGUFModel(tuned, adapter, name=plan.run.name),
        GGUFModel(base, adapter, name=plan.base_name),
    )
    _check_resources(plan, models)
    return models


def _make(
    plan: Plan, tuned: GGUFModel, base: GGUFModel, withdraw: Callable[[], None]
) -> ConvertResult:
    """Write and verify the files; `withdraw` is called before they replace older ones."""
    settings = plan.settings
    clock = Clock()
    written: dict[Path, dict[str, Sequence[bytes]]] = defaultdict(dict)
    with ExitStack() as files:
        # The files get their names when this block ends well, after the verification.
        made_tuned = files.enter_context(atomic_path(plan.tuned))
        made_base = files.enter_context(atomic_path(plan.base))
        made_f16 = None
        if settings.keep_f16 and settings.quantization != "F16":
            made_f16 = files.enter_context(atomic_path(plan.f16))
            write_quantized(tuned, made_f16, "F16", threads=plan.threads, digests=written[made_f16])
        # One matrix for both, so that the weights that training left alone stay equal in both.
        matrix = _importance_matrix(plan, tuned, files) if uses_imatrix(settings) else None
        checkpoint = None
        if settings.merged_checkpoint:
            checkpoint = files.enter_context(atomic_path(plan.merged))
            _write_checkpoint(plan, tuned.checkpoint, checkpoint)
        clock.lap("before the GGUF")
        choices = write_quantized(
            tuned, made_tuned, settings.quantization,
            threads=plan.threads, matrix=matrix, matrix_file=plan.imatrix.name,
            digests=written[made_tuned],
        )  # fmt: skip
        clock.lap("merge and quantize")
        copied = copied_tensors(
            TensorFile(made_tuned),
            tuned.changed,
            base.choices(settings.quantization, has_imatrix=matrix is not None),
        )
        write_quantized(
            base, made_base, settings.quantization,
            threads=plan.threads, matrix=matrix, matrix_file=plan.imatrix.name, copied=copied,
            digests=written[made_base],
        )  # fmt: skip
        clock.lap("quantize the base")
        checks, sample = verify(
            Candidate(
                made_tuned, tuned, plan.run.adapter, plan.run.split("test"), made_base, base,
                matrix.means() if matrix else None, checkpoint, made_f16,
                plan.run.thoughts, written,
            ),
            settings,
        )  # fmt: skip
        clock.lap("verify")
        if not all(check.passed for check in checks):
            raise VerificationError(checks, str(plan.tuned))
        result = ConvertResult(
            tuned=_described(made_tuned, plan.tuned, settings.quantization),
            base=_described(made_base, plan.base, settings.quantization),
            tensor_types=dict(Counter(choice.type for choice in choices)),
            fallbacks=fallbacks(choices),
            verification=checks,
            sample=sample,
            seconds=clock.laps,
            settings=settings.model_dump(mode="json"),
            inputs=plan.inputs(),
            merged_into=MergedInto(path=str(plan.base_checkpoint), weights=tuned.checkpoint.kind),
        )
        if settings.merged_checkpoint:
            result = result.model_copy(update={"merged_checkpoint": str(plan.merged)})
        withdraw()
        return result


def _write_checkpoint(plan: Plan, merged: MergedCheckpoint, target: Path) -> None:
    total = checkpoint_bytes(merged)
    with progress("write the merged checkpoint", total, rate=bytes_per_second) as advance:
        write_checkpoint(target, merged, plan.run.adapter, threads=plan.threads, advance=advance)


def _importance_matrix(plan: Plan, tuned: GGUFModel, files: ExitStack) -> ImportanceMatrix:
    """The importance matrix of the training examples, which is kept beside the GGUFs.

    Measured on a temporary file.
    """
    made = files.enter_context(atomic_path(plan.imatrix))
    kind = temporary_quantization(tuned)
    path = plan.run.tuned_gguf(f"{kind}-for-imatrix{PARTIAL_SUFFIX}")
    try:
        write_quantized(tuned, path, kind, threads=plan.threads)
        matrix = measure_importance(
            path, plan.run, plan.settings.imatrix_tokens, threads=plan.threads
        )
    finally:
        path.unlink(missing_ok=True)
    matrix.write(made)
    return matrix


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


def _existing_result(plan: Plan, *, skip_done: bool) -> ConvertResult | None:
    """The finished result if it may stand; None if there is nothing in the way."""
    existing = [path for path in plan.outputs() if path.exists()]
    if not existing:
        return None
    result = plan.run.finished("convert", ConvertResult) if skip_done else None
    if skip_done and result is None:
        return None  # a conversion was killed between its files and its record
    if result is not None and len(existing) == len(plan.outputs()):
        same = result.settings == plan.settings.model_dump(mode="json")
        if same and result.inputs == plan.inputs():
            return result
    raise OutputExistsError(existing[0])


def _check_resources(plan: Plan, models: Sequence[GGUFModel]) -> None:
    """Raise TuneserveError if memory, or the most that is on disk at any moment, does not fit."""
    settings = plan.settings
    check_memory(plan.threads)
    needed = sum(planned_bytes(model, settings.quantization) for model in models)
    if settings.keep_f16 and settings.quantization != "F16":
        needed += planned_bytes(models[0], "F16")
    if uses_imatrix(settings):
        needed += planned_bytes(models[0], temporary_quantization(models[0]))
    if settings.merged_checkpoint:
        needed += checkpoint_bytes(models[0].checkpoint)
    check_disk(plan.run.gguf, needed + PROBE_BYTES)


def _described(made: Path, final: Path, quantization: str) -> GGUFRecord:
    return GGUFRecord(
        path=str(final),
        size_bytes=made.stat().st_size,
        sha256=sha256_file(made),
        quantization=quantization,
    )
