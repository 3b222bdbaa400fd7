"""The convert stage of a run: adapter in, verified GGUFs of tuned and base out."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.adapter import Adapter
from convert.gate import Candidate, GateError, verify
from convert.gate.texts import held_out
from convert.gguf_output import tensor_bytes, write_gguf
from convert.handover import write_handover
from convert.imatrix import ImportanceMatrix, collect, training_chunks, uses_importance
from convert.merge import MergedCheckpoint
from convert.model import GGUFModel
from convert.quantization import Choice
from tuneserve.base import check_checkpoint
from tuneserve.console import human_bytes, progress, say
from tuneserve.errors import OutputExistsError, TuneserveError
from tuneserve.files import PARTIAL_SUFFIX, atomic_path, sha256_file
from tuneserve.llama import LlamaModel, physical_cores
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

SPARE_BYTES = 256 * 1024 * 1024


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

    def inputs(self) -> dict[str, Any]:
        """What the result depends on, for telling whether it is still up to date."""
        names = ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json",
                 "tokenizer_config.json", "chat_template.jinja")  # fmt: skip
        files = [self.run.adapter / name for name in names]
        return {
            "base": str(self.base_checkpoint),
            "adapter": {path.name: sha256_file(path) for path in files if path.is_file()},
        }


def convert(
    run: RunDirectory, settings: ConvertSettings, *, force: bool = False, skip_done: bool = False
) -> dict[str, Any]:
    """Merge, write, quantize and verify; returns the stage's result as kept in run.json.

    Raises OutputExistsError before any slow work if there is a result already (unless `force`, or
    `skip_done` and it was made from the same inputs with the same settings), GateError if the
    result fails verification: then nothing is left under the final names.
    """
    trained = run.require_stage("train")["base"]
    plan = Plan(run, settings, Path(trained["path"]), trained["name"])
    if not force:
        done = _existing_result(plan, skip_done=skip_done)
        if done is not None:
            say(f"convert: done already with the same settings: {plan.tuned}")
            return done
    check_checkpoint(plan.base_checkpoint)
    base = MergedCheckpoint(plan.base_checkpoint)
    tuned = MergedCheckpoint(plan.base_checkpoint, Adapter(run.adapter))
    models = (
        GGUFModel(tuned, run.adapter, name=run.name),
        GGUFModel(base, run.adapter, name=plan.base_name),
    )
    _check_disk(plan, models)
    with run.stage("convert") as record:
        record.result = _make(plan, *models)
        record.result["handover"] = _hand_over(plan, record.result)
    return record.result


def _hand_over(plan: Plan, result: Mapping[str, Any]) -> list[str]:
    run = plan.run
    train = run.saved_settings().get("train", {})
    keys = ("r", "alpha", "epochs", "learning_rate", "target_modules")
    card = {
        "name": run.name,
        "base": plan.base_name,
        "spec": run.require_stage("train")["base"]["spec"],
        "data": {
            name: sha256_file(run.split(name))
            for name in ("train", "eval", "test")
            if run.split(name).is_file()
        },
        "train": {key: train[key] for key in keys if key in train},
    }
    prompts = [conversation.prompt for conversation in held_out(run.split("test"), 50)]
    return write_handover(run.gguf, result, card, prompts)


def _make(plan: Plan, tuned: GGUFModel, base: GGUFModel) -> dict[str, Any]:
    quantization = plan.settings.quantization
    with ExitStack() as files:
        # The files get their names when this block ends well, after the verdict.
        made_tuned = files.enter_context(atomic_path(plan.tuned))
        made_base = files.enter_context(atomic_path(plan.base))
        if quantization == "F16":
            made_f16 = made_tuned
        elif plan.settings.keep_f16:
            made_f16 = files.enter_context(atomic_path(plan.f16))
        else:
            made_f16 = files.enter_context(_scratch(plan.f16))
        if made_f16 is not made_tuned:
            _write(tuned, made_f16, "F16", plan)
        # One matrix for both, so that the weights that training left alone stay equal in both.
        wanted = plan.settings.imatrix and uses_importance(quantization)
        matrix = _importance_matrix(plan, made_f16, files) if wanted else None
        choices = _write(tuned, made_tuned, quantization, plan, matrix)
        _write(base, made_base, quantization, plan, matrix)
        verdict = verify(
            Candidate(made_tuned, made_f16, made_base, plan.base_checkpoint, plan.run.adapter,
                      tuned.checkpoint, plan.run.split("test")),
            plan.settings,
        )  # fmt: skip
        if not verdict.passed:
            raise GateError(verdict.checks, str(plan.tuned))
        return {
            "tuned": _described(made_tuned, plan.tuned, quantization),
            "base": _described(made_base, plan.base, quantization),
            "tensor_types": dict(Counter(choice.type for choice in choices)),
            "fallbacks": fallbacks(choices),
            "verification": [check.to_json() for check in verdict.checks],
            "sample": verdict.sample,
            "settings": plan.settings.model_dump(mode="json"),
            "inputs": plan.inputs(),
        }


def _importance_matrix(plan: Plan, f16: Path, files: ExitStack) -> ImportanceMatrix:
    """The importance matrix of the training examples, which is kept beside the GGUFs."""
    made = files.enter_context(atomic_path(plan.imatrix))
    with LlamaModel(f16) as model:
        chunks = training_chunks(model, plan.run.split("train"), plan.settings.imatrix_tokens)
        total = sum(len(chunk) for chunk in chunks)
        with progress("importance matrix", total, unit="tokens") as advance:
            matrix = collect(model, chunks, threads=plan.settings.threads, advance=advance)
    matrix.write(made)
    return matrix


def _write(
    model: GGUFModel,
    path: Path,
    quantization: str,
    plan: Plan,
    matrix: ImportanceMatrix | None = None,
) -> list[Choice]:
    choices = model.choices(quantization, has_imatrix=matrix is not None)
    metadata = model.metadata(quantization)
    if matrix is not None:
        metadata |= matrix.provenance(plan.imatrix.name)
    scale = 2.0  # rates are told in bytes of 16-bit weights
    label = f"write {path.name.removesuffix('.partial')}"
    with progress(
        label, model.parameters * scale, rate=lambda value: f"{human_bytes(value)}/s"
    ) as advance:
        write_gguf(
            path, metadata, model.sources, choices,
            threads=plan.settings.threads or physical_cores(),
            importance=matrix.means() if matrix else None,
            advance=lambda values: advance(values * scale),
        )  # fmt: skip
    return choices


def fallbacks(choices: Sequence[Choice]) -> dict[str, int]:
    """How many tensors got another type because of their row length: {'Q4_K → Q5_0': 180}."""
    return dict(Counter(f"{c.wanted} → {c.type}" for c in choices if c.wanted))


def _existing_result(plan: Plan, *, skip_done: bool) -> dict[str, Any] | None:
    """The finished result if it may stand; None if there is nothing in the way."""
    existing = [path for path in (plan.tuned, plan.base) if path.exists()]
    if not existing:
        return None
    stage = plan.run.read().get("stages", {}).get("convert")
    result: dict[str, Any] | None = stage and stage["result"]
    if skip_done and result and len(existing) == 2:
        same = result["settings"] == plan.settings.model_dump(mode="json")
        if same and result["inputs"] == plan.inputs():
            return result
    raise OutputExistsError(existing[0])


def _check_disk(plan: Plan, models: Sequence[GGUFModel]) -> None:
    needed = SPARE_BYTES
    for model in models:
        needed += planned_bytes(model, plan.settings.quantization)
    if plan.settings.quantization != "F16":
        needed += planned_bytes(models[0], "F16")
    plan.run.gguf.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(plan.run.gguf).free
    if free < needed:
        raise TuneserveError(
            f"{human_bytes(needed)} of disk are needed, {human_bytes(free)} are free",
            where=str(plan.run.gguf),
        )


def planned_bytes(model: GGUFModel, quantization: str) -> int:
    return sum(
        tensor_bytes(model.sources[choice.name].shape, choice.type)
        for choice in model.choices(quantization)
    )


def _described(made: Path, final: Path, quantization: str) -> dict[str, Any]:
    return {
        "path": str(final),
        "size_bytes": made.stat().st_size,
        "sha256": sha256_file(made),
        "quantization": quantization,
    }


@contextmanager
def _scratch(final: Path) -> Iterator[Path]:
    """A temporary path beside `final` whose file is gone afterwards."""
    path = final.with_name(final.name + PARTIAL_SUFFIX)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
