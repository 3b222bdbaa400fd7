"""The quantization ladder: what each step down costs, with either KV cache type.

Every rung is the tuned model as another GGUF with another KV cache. Perplexity and KL divergence
are of the held-out conversations, rendered as the model sees them; accuracy is of the answers to
the held-out prompts. The top rung, F16 with an f16 cache, is what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Ids
from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.answers import Asked, read_responses
from tuneserve.bench.compare.results import Rung
from tuneserve.bench.measure import perplexity
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.ladder_files import FULL, Step
from tuneserve.bench.measure.measure import Subject, Work, measure_answers
from tuneserve.bench.measure.perplexity import CHUNK, MeanError
from tuneserve.bench.stats import significance
from tuneserve.bench.tasks.examples import Example
from tuneserve.console import progress
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel
from tuneserve.prompt import encode_text, template_of
from tuneserve.settings import BenchSettings, KVCacheType, ServeSettings
from tuneserve.thoughts import KEY

FIDELITY = "fidelity"
CACHES: tuple[KVCacheType, ...] = ("f16", "q8_0")
MOST_CHUNKS = 24  # of 512 tokens; the KL divergence's error is small by then


@dataclass(frozen=True)
class Place:
    """A rung to be measured."""

    step: Step
    cache: KVCacheType
    subject: Subject

    @property
    def is_top(self) -> bool:
        return self.step == FULL and self.cache == CACHES[0]


def places(paths: dict[Step, Path], serve: ServeSettings, bench: BenchSettings) -> list[Place]:
    """Every step with every cache, from the top."""
    return [
        Place(step, cache, Subject(f"{step.name}, {cache}", path, _with_cache(serve, cache), bench))
        for step, path in paths.items()
        for cache in CACHES
    ]


def _with_cache(serve: ServeSettings, cache: KVCacheType) -> ServeSettings:
    return serve.model_copy(update={"cache_type_k": cache, "cache_type_v": cache})


def measure_ladder(
    rungs: Sequence[Place], examples: Sequence[Example], work: Work, journal: Journal
) -> None:
    """Everything of all rungs that the journal does not hold yet."""
    for rung in rungs:
        if not journal.has(FIDELITY, rung.subject.name):
            value = {**_size(rung.subject.path), **_fidelity(rungs[0], rung, examples)}
            journal.add(FIDELITY, rung.subject.name, "", value)
        measure_answers(rung.subject, work, journal)


def _size(path: Path) -> dict[str, Any]:
    """Bytes of the file, and bits of its tensors for every weight."""
    tensors = GGUFFile(path).tensors.values()
    bits = 8 * sum(tensor.size for tensor in tensors)
    weights = sum(tensor.n_elements for tensor in tensors)
    return {"size_bytes": path.stat().st_size, "bits_per_weight": bits / weights}


def _fidelity(top: Place, rung: Place, examples: Sequence[Example]) -> dict[str, Any]:
    """Perplexity of the conversations, and divergence from the top rung."""
    serve = rung.subject.serve
    with LlamaModel(rung.subject.path, gpu_layers=serve.gpu_layers) as model:
        chunks = _chunks(model, examples)
        n_ctx = chunks.shape[1]
        with (
            perplexity.perplexity_context(model, serve, n_ctx) as context,
            progress(f"{rung.subject.name}: fidelity", len(chunks), unit="chunks") as advance,
        ):
            if rung.is_top:
                losses = perplexity.text_nll(context, chunks, advance)
                found = perplexity.summarise_perplexity(losses)
                return {"perplexity": asdict(found.perplexity), "kld": None, "same_top": None}
            with (
                LlamaModel(top.subject.path, gpu_layers=serve.gpu_layers) as full,
                perplexity.perplexity_context(full, top.subject.serve, n_ctx) as full_context,
            ):
                parts = perplexity.text_divergence(full_context, context, chunks, advance)
    compared = perplexity.summarise_divergence(parts, len(chunks))
    return {
        "perplexity": asdict(compared.perplexity),
        "kld": asdict(compared.kld),
        "same_top": asdict(compared.same_top),
    }


def _chunks(model: LlamaModel, examples: Sequence[Example]) -> Ids:
    """The held-out conversations with their reference answers, one after the other, as token ids
    [chunks, n_ctx]; of few conversations the chunks are shorter."""
    template = template_of(model)
    tokens: list[int] = []
    for item in examples:
        answer = {"role": "assistant", "content": item.reference, KEY: item.thoughts}
        tools = list(item.tools) or None
        tokens += encode_text(model, template.render([*item.prompt, answer], tools=tools))
    n_ctx = min(CHUNK, len(tokens) // 2)
    return perplexity.cut(tokens, n_ctx)[:MOST_CHUNKS]


def read_ladder(
    rungs: Sequence[Place], asked: Asked, journal: Journal, settings: BenchSettings
) -> list[Rung]:
    """The measured rungs, each against the top one, with Holm-adjusted p."""
    scores = [
        np.array([response.score for response in read_responses(journal, rung.subject.name, asked)])
        for rung in rungs
    ]
    clusters = analysis.clusters_of(asked.task.examples)
    compared = [analysis.compare_scores(other, scores[0], clusters, settings) for other in scores]
    adjusted = [1.0, *significance.holm([found.p for found in compared[1:]])]
    rows = []
    for rung, found, p in zip(rungs, compared, adjusted, strict=True):
        measured = journal.get(FIDELITY, rung.subject.name)
        rows.append(
            Rung(
                name=rung.step.name,
                cache=rung.cache,
                size_bytes=measured["size_bytes"],
                bits_per_weight=measured["bits_per_weight"],
                perplexity=MeanError(**measured["perplexity"]),
                kld=None if rung.is_top else MeanError(**measured["kld"]),
                same_top=None if rung.is_top else MeanError(**measured["same_top"]),
                accuracy=found.tuned,
                difference=None if rung.is_top else found.difference,
                adjusted_p=None if rung.is_top else p,
            )
        )
    return rows
