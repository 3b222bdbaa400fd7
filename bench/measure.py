"""Run one model over the held-out prompts and write down what it did."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.endpoint import ask_endpoint
from bench.examples import Example
from bench.journal import Journal
from bench.likelihood import PACKED_SEQUENCES, answer_likelihoods
from bench.offload import engine_settings
from bench.perplexity import perplexity_context, text_nll
from bench.prompts import EncodedExample
from bench.speed import GENERATED_TOKENS, PROMPT_TOKENS, measure_speed
from tuneserve.console import progress
from tuneserve.llama import LlamaContext, LlamaModel
from tuneserve.settings import BenchSettings, ServeSettings

LIKELIHOOD, CHOICE, ANSWER = "likelihood", "choice", "answer"
TEXT, SPEED = "text", "speed"
AGAIN, ENDPOINT = "base again", "endpoint"
LABELS = {LIKELIHOOD: "perplexity", CHOICE: "likelihood of the choices"}
LIKELIHOOD_BATCH = 512  # more makes every token attend over more masked cells of the cache


@dataclass(frozen=True)
class Work:
    """What each model is measured on: the prompts with their references, and where answers are
    chosen rather than generated, every prompt with every choice (id: see `choice_id`); and texts
    by name, as token ids [chunks, n_ctx]."""

    encoded: list[EncodedExample]
    choices: list[EncodedExample]
    texts: dict[str, npt.NDArray[np.int64]]


def measure(
    name: str, path: Path, work: Work, serve: ServeSettings, bench: BenchSettings, journal: Journal
) -> None:
    """Everything of one model (`name` is 'base' or 'tuned') that the journal does not hold yet."""
    for kind, encoded in ((LIKELIHOOD, work.encoded), (CHOICE, work.choices)):
        _measure_likelihoods(kind, name, path, encoded, serve, bench, journal)
    if not work.choices:
        _generate_answers(name, path, work.encoded, serve, bench, journal)
    _measure_texts(name, path, work.texts, serve, journal)
    if not journal.has(SPEED, name):
        _measure_speed(name, path, work.encoded, serve, bench, journal)


def _measure_likelihoods(
    kind: str,
    name: str,
    path: Path,
    encoded: Sequence[EncodedExample],
    serve: ServeSettings,
    bench: BenchSettings,
    journal: Journal,
) -> None:
    known = {item.example.id for item in encoded if journal.has(kind, name, item.example.id)}
    if len(known) == len(encoded):
        return
    label = f"{name}: {LABELS[kind]}"
    with (
        LlamaModel(path, gpu_layers=serve.gpu_layers, mmap=serve.mmap) as model,
        _context(model, serve, n_ctx=max(bench.ctx, LIKELIHOOD_BATCH)) as context,
        progress(label, len(encoded) - len(known), unit="answers") as advance,
    ):
        for item, likelihood in answer_likelihoods(context, encoded, known=known):
            journal.add(kind, name, item.example.id, asdict(likelihood))
            advance(0 if item.example.id in known else 1)


def _generate_answers(
    name: str,
    path: Path,
    encoded: Sequence[EncodedExample],
    serve: ServeSettings,
    bench: BenchSettings,
    journal: Journal,
) -> None:
    from serve.engine import Completion, Engine, Sampling

    todo = [item for item in encoded if not journal.has(ANSWER, name, item.example.id)]
    if not todo:
        return
    samplings = [
        Sampling(temperature=0.0, max_tokens=min(bench.max_tokens, bench.ctx - len(item.prompt)))
        for item in todo
    ]
    with (
        Engine(path, engine_settings(serve, bench)) as engine,
        progress(f"{name}: answers", len(todo), unit="prompts") as advance,
    ):

        def keep(index: int, completion: Completion) -> None:
            value = {
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "tokens": len(completion.tokens),
            }
            journal.add(ANSWER, name, todo[index].example.id, value)
            advance(1)

        engine.generate([item.prompt for item in todo], samplings, on_done=keep)


def measure_again(
    path: Path,
    encoded: Sequence[EncodedExample],
    serve: ServeSettings,
    bench: BenchSettings,
    journal: Journal,
) -> None:
    """The base's answers once more: what differs is chance."""
    _generate_answers(AGAIN, path, encoded, serve, bench, journal)


def measure_endpoint(
    encoded: Sequence[EncodedExample], bench: BenchSettings, journal: Journal
) -> None:
    """The answers of the model behind the endpoint that the journal does not hold yet."""
    todo = [item.example for item in encoded if not journal.has(ANSWER, ENDPOINT, item.example.id)]
    if not todo:
        return
    with progress("endpoint: answers", len(todo), unit="prompts") as advance:

        def keep(example: Example, answer: dict[str, Any]) -> None:
            journal.add(ANSWER, ENDPOINT, example.id, answer)
            advance(1)

        ask_endpoint(todo, bench, keep)


def _measure_texts(
    name: str,
    path: Path,
    texts: Mapping[str, npt.NDArray[np.int64]],
    serve: ServeSettings,
    journal: Journal,
) -> None:
    todo = {text: chunks for text, chunks in texts.items() if not journal.has(TEXT, name, text)}
    if not todo:
        return
    total = sum(len(chunks) for chunks in todo.values())
    with (
        LlamaModel(path, gpu_layers=serve.gpu_layers, mmap=serve.mmap) as model,
        perplexity_context(model, serve) as context,
        progress(f"{name}: texts", total, unit="chunks") as advance,
    ):
        for text, chunks in todo.items():
            losses = text_nll(context, chunks, advance)
            value = {"nll": losses.sum(axis=1).tolist(), "tokens_per_chunk": losses.shape[1]}
            journal.add(TEXT, name, text, value)


def _measure_speed(
    name: str,
    path: Path,
    encoded: Sequence[EncodedExample],
    serve: ServeSettings,
    bench: BenchSettings,
    journal: Journal,
) -> None:
    n_ctx = min(bench.ctx, PROMPT_TOKENS + GENERATED_TOKENS)
    text = list(islice(chain.from_iterable(item.prompt for item in encoded), PROMPT_TOKENS))
    started = time.perf_counter()
    with LlamaModel(path, gpu_layers=serve.gpu_layers, mmap=serve.mmap) as model:
        loaded = time.perf_counter() - started
        with _context(model, serve, n_ctx=n_ctx) as context:
            speed = measure_speed(context, text, repetitions=bench.speed_repetitions)
    journal.add(SPEED, name, "", {"load_seconds": loaded, **asdict(speed)})


def _context(model: LlamaModel, serve: ServeSettings, *, n_ctx: int) -> LlamaContext:
    """A context with the KV cache and threads that the served model has."""
    return LlamaContext(
        model,
        n_ctx=n_ctx,
        n_batch=LIKELIHOOD_BATCH,
        n_ubatch=min(serve.micro_batch, LIKELIHOOD_BATCH),
        n_seq_max=PACKED_SEQUENCES,
        cache_type_k=serve.cache_type_k,
        cache_type_v=serve.cache_type_v,
        flash_attention=serve.flash_attention,
        threads=serve.threads,
    )
