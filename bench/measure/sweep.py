"""A sweep over quantizations (--ladder): what each costs, with either KV cache type.

Every point is the tuned model as another GGUF with another KV cache. Perplexity and KL divergence
are of the held-out conversations, rendered as the model sees them; accuracy is of the answers to
the held-out prompts. The reference point, F16 with an f16 cache, is what the others are compared
with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneserve.arrays import Ids
from tuneserve.bench.measure import perplexity
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.measure import measure_answers
from tuneserve.bench.measure.perplexity import CHUNK_TOKENS
from tuneserve.bench.measure.sweep_files import FULL, STEPS, SweepStep
from tuneserve.bench.measure.values import ANSWER, CHOICE, FIDELITY
from tuneserve.bench.measure.work import Contender, Workload
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import progress
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.quantize import measure_importance, write_quantized
from tuneserve.files import atomic_path
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel, physical_cores
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings, ConvertSettings, KVCacheType, ServeSettings

CACHES: tuple[KVCacheType, ...] = ("f16", "q8_0")
MOST_CHUNKS = 24  # of 512 tokens; the KL divergence's error is small by then


@dataclass(frozen=True)
class SweepPoint:
    """A quantization with a KV cache type, and the contender that is measured for it."""

    step: SweepStep
    cache: KVCacheType
    contender: Contender

    @property
    def is_reference(self) -> bool:
        return self.step == FULL and self.cache == CACHES[0]


def sweep_points(
    paths: dict[SweepStep, Path], serve: ServeSettings, bench: BenchSettings
) -> list[SweepPoint]:
    """Every step with every cache, the reference first."""
    points = []
    for step, path in paths.items():
        for cache in CACHES:
            served = serve.model_copy(update={"cache_type_k": cache, "cache_type_v": cache})
            contender = Contender(f"{step.name}, {cache}", path, served, bench)
            points.append(SweepPoint(step, cache, contender))
    return points


def make_files(run: RunDirectory, settings: ConvertSettings, folder: Path) -> None:
    """A GGUF of the tuned model for every step; those that `folder` has already are kept.

    Raises UsageError where the base checkpoint that the run was trained on is gone.
    """
    base = Path(run.require_stage("train", TrainOutput).base.path)
    model = GGUFModel(MergedCheckpoint(base, Adapter(run.adapter)), run.adapter, name=run.name)
    threads = settings.threads or physical_cores()
    paths = {step: folder / step.file_name for step in STEPS}
    for step, path in paths.items():
        if path.is_file():
            continue
        matrix = None
        if step.imatrix:
            matrix = measure_importance(paths[FULL], run, settings.imatrix_tokens, threads=threads)
        with atomic_path(path) as made:
            write_quantized(
                model, made, step.quantization,
                threads=threads, matrix=matrix, matrix_file=f"{run.name}.imatrix.gguf",
            )  # fmt: skip


def is_measured(points: Sequence[SweepPoint], workload: Workload, journal: Journal) -> bool:
    """Does the journal hold everything of all points?"""
    asked = [(ANSWER, request.id) for request in workload.requests]
    asked += [(CHOICE, item.example.id) for part in workload.choices for item in part]
    return all(
        journal.has(kind, point.contender.name, example)
        for point in points
        for kind, example in [(FIDELITY, ""), *asked]
    )


def measure_sweep(
    points: Sequence[SweepPoint],
    encoded: Sequence[EncodedExample],
    workload: Workload,
    journal: Journal,
) -> None:
    """Everything of all points that the journal does not hold yet."""
    for point in points:
        if not journal.has(FIDELITY, point.contender.name):
            value = {**_size(point.contender.path), **_fidelity(points[0], point, encoded)}
            journal.add(FIDELITY, point.contender.name, "", value)
        measure_answers(point.contender, workload, journal)


def _size(path: Path) -> dict[str, Any]:
    """Bytes of the file, and bits of its tensors for every weight."""
    tensors = GGUFFile(path).tensors.values()
    bits = 8 * sum(tensor.size for tensor in tensors)
    weights = sum(tensor.n_elements for tensor in tensors)
    return {"size_bytes": path.stat().st_size, "bits_per_weight": bits / weights}


def _fidelity(
    reference: SweepPoint, point: SweepPoint, encoded: Sequence[EncodedExample]
) -> dict[str, Any]:
    """Perplexity of the conversations, and divergence from the reference point."""
    serve = point.contender.serve
    with LlamaModel(point.contender.path, gpu_layers=serve.gpu_layers) as model:
        chunks = _chunks(encoded)
        n_ctx = chunks.shape[1]
        with (
            perplexity.perplexity_context(model, serve, n_ctx) as context,
            progress(f"{point.contender.name}: fidelity", len(chunks), unit="chunks") as advance,
        ):
            if point.is_reference:
                losses = perplexity.text_nll(context, chunks, advance)
                found = perplexity.summarise_perplexity(losses)
                return {"perplexity": asdict(found.perplexity), "kld": None, "same_top": None}
            full = reference.contender
            with (
                LlamaModel(full.path, gpu_layers=serve.gpu_layers) as full_model,
                perplexity.perplexity_context(full_model, full.serve, n_ctx) as full_context,
            ):
                parts = perplexity.text_divergence(full_context, context, chunks, advance)
    compared = asdict(perplexity.summarise_divergence(parts, len(chunks)))
    return {name: compared[name] for name in ("perplexity", "kld", "same_top")}


def _chunks(encoded: Sequence[EncodedExample]) -> Ids:
    """The held-out conversations with their reference answers, one after the other, as token ids
    [chunks, n_ctx]; of few conversations the chunks are shorter."""
    tokens = [token for item in encoded for token in (*item.prompt, *item.answer)]
    n_ctx = min(CHUNK_TOKENS, len(tokens) // 2)
    return perplexity.cut(tokens, n_ctx)[:MOST_CHUNKS]
