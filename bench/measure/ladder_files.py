"""The GGUFs of the quantization ladder, made from the run's base and adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tuneserve.console import human_bytes, progress
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.imatrix import ImportanceMatrix, collect, training_chunks
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.files import atomic_path
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.llama import LlamaModel, physical_cores
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings


@dataclass(frozen=True)
class Step:
    """A way to quantize: the type, and whether an importance matrix steers it."""

    quantization: str
    imatrix: bool = False

    @property
    def name(self) -> str:
        return f"{self.quantization}{' + imatrix' if self.imatrix else ''}"


FULL = Step("F16")
STEPS = (FULL, Step("Q8_0"), Step("Q4_K_M"), Step("Q4_K_M", imatrix=True))


def make_files(run: RunDirectory, settings: ConvertSettings, folder: Path) -> dict[Step, Path]:
    """A GGUF of the tuned model for every step; those that `folder` has already are kept.

    Raises UsageError where the base checkpoint that the run was trained on is gone.
    """
    base = Path(run.require_stage("train", TrainOutput).base.path)
    model = GGUFModel(MergedCheckpoint(base, Adapter(run.adapter)), run.adapter, name=run.name)
    threads = settings.threads or physical_cores()
    paths = {step: folder / f"{step.name.replace(' ', '')}.gguf" for step in STEPS}
    for step, path in paths.items():
        if path.is_file():
            continue
        matrix = None
        if step.imatrix:
            matrix = _importance(paths[FULL], run.split("train"), settings)
        with atomic_path(path) as made:
            _write(model, step, made, threads, matrix)
    return paths


def _importance(f16: Path, examples: Path, settings: ConvertSettings) -> ImportanceMatrix:
    with LlamaModel(f16) as model:
        chunks = training_chunks(model, examples, settings.imatrix_tokens)
        with progress("importance matrix", sum(map(len, chunks)), unit="tokens") as advance:
            return collect(model, chunks, threads=settings.threads, advance=advance)


def _write(
    model: GGUFModel, step: Step, path: Path, threads: int, matrix: ImportanceMatrix | None
) -> None:
    choices = model.choices(step.quantization, has_imatrix=matrix is not None)
    rate: Callable[[float], str] = lambda values: f"{human_bytes(2 * values)}/s"  # noqa: E731
    with progress(f"write {step.name}", model.parameters, rate=rate) as advance:
        write_gguf(
            path,
            model.metadata(step.quantization),
            model.sources,
            choices,
            threads=threads,
            importance=matrix.means() if matrix else None,
            advance=advance,
        )
