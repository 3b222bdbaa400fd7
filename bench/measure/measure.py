"""Run one model over the prompts and texts, and write down what it did."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

from tuneserve.arrays import Ids
from tuneserve.bench.measure.endpoint import ask_endpoint
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.likelihood import PACKED_SEQUENCES, answer_likelihoods
from tuneserve.bench.measure.perplexity import perplexity_context, text_nll
from tuneserve.bench.measure.speed import GENERATED_TOKENS, PROMPT_TOKENS, measure_speed
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import progress
from tuneserve.llama import LlamaContext, LlamaModel, served_context
from tuneserve.serve.offload import offline_settings
from tuneserve.settings import BenchSettings, ServeSettings

LIKELIHOOD, CHOICE, ANSWER = "likelihood", "choice", "answer"
TEXT, SPEED = "text", "speed"
NOISE_FLOOR, ENDPOINT = "base again", "endpoint"
LABELS = {LIKELIHOOD: "perplexity", CHOICE: "likelihood of the choices"}
LIKELIHOOD_BATCH = 512  # more makes every token attend over more masked cells of the cache
BLOCK_ROUNDS = 8  # prompts in a block for each that is answered at a time


@dataclass(frozen=True)
class AnswerRequest:
    """A prompt to be answered with at most `max_tokens` tokens."""

    encoded: EncodedExample
    max_tokens: int

    @property
    def id(self) -> str:
        return self.encoded.example.id


@dataclass(frozen=True)
class Workload:
    """What each model is measured on.

    `requests` are answered; of `expected` the likelihood of the references is taken; `choices`
    is every prompt with every choice (id: see `choice_id`) where answers are chosen rather than
    generated; `texts` by name, as token ids [chunks, n_ctx].
    """

    requests: list[AnswerRequest]
    expected: list[EncodedExample]
    choices: list[EncodedExample]
    texts: dict[str, Ids]


@dataclass(frozen=True)
class Contender:
    """A model to measure under a name ('base', 'tuned'), and how it is run."""

    name: str
    path: Path
    serve: ServeSettings
    bench: BenchSettings


def measure(contender: Contender, workload: Workload, journal: Journal) -> None:
    """Everything of one model that the journal does not hold yet."""
    with _LoadedWhenNeeded(contender) as loaded:
        _measure_likelihoods(LIKELIHOOD, contender, loaded, workload.expected, journal)
        _measure_likelihoods(CHOICE, contender, loaded, workload.choices, journal)
        _measure_texts(contender, loaded, workload.texts, journal)
        _measure_speed(contender, loaded, workload.expected, journal)
    generate_answers(contender, workload.requests, journal)


def measure_answers(contender: Contender, workload: Workload, journal: Journal) -> None:
    """Only what the model answers, generated or chosen."""
    with _LoadedWhenNeeded(contender) as loaded:
        _measure_likelihoods(CHOICE, contender, loaded, workload.choices, journal)
    generate_answers(contender, workload.requests, journal)


class _LoadedWhenNeeded:
    """The contender's model, loaded at the first call."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._model: LlamaModel | None = None
        self.load_seconds = 0.0

    def __call__(self) -> LlamaModel:
        if self._model is None:
            serve, started = self._contender.serve, time.perf_counter()
            self._model = LlamaModel(
                self._contender.path, gpu_layers=serve.gpu_layers, mmap=serve.mmap
            )
            self.load_seconds = time.perf_counter() - started
        return self._model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._model is not None:
            self._model.close()


def _measure_likelihoods(
    kind: str,
    contender: Contender,
    loaded: _LoadedWhenNeeded,
    encoded: Sequence[EncodedExample],
    journal: Journal,
) -> None:
    ids = [item.example.id for item in encoded]
    known = {name for name in ids if journal.has(kind, contender.name, name)}
    if len(known) == len(ids):
        return
    label = f"{contender.name}: {LABELS[kind]}"
    with (
        _context(loaded(), contender.serve, max(contender.bench.ctx, LIKELIHOOD_BATCH)) as context,
        progress(label, len(ids) - len(known), unit="answers") as advance,
    ):
        for item, likelihood in answer_likelihoods(context, encoded, known=known):
            journal.add(kind, contender.name, item.example.id, asdict(likelihood))
            advance(0 if item.example.id in known else 1)


def _measure_texts(
    contender: Contender,
    loaded: _LoadedWhenNeeded,
    texts: dict[str, Ids],
    journal: Journal,
) -> None:
    todo = {name: ids for name, ids in texts.items() if not journal.has(TEXT, contender.name, name)}
    if not todo:
        return
    total = sum(map(len, todo.values()))
    with (
        perplexity_context(loaded(), contender.serve) as context,
        progress(f"{contender.name}: texts", total, unit="chunks") as advance,
    ):
        for name, chunks in todo.items():
            losses = text_nll(context, chunks, advance)
            value = {"nll": losses.sum(axis=1).tolist(), "tokens_per_chunk": losses.shape[1]}
            journal.add(TEXT, contender.name, name, value)


def _measure_speed(
    contender: Contender,
    loaded: _LoadedWhenNeeded,
    encoded: Sequence[EncodedExample],
    journal: Journal,
) -> None:
    if journal.has(SPEED, contender.name):
        return
    n_ctx = min(contender.bench.ctx, PROMPT_TOKENS + GENERATED_TOKENS)
    text = list(islice(chain.from_iterable(item.prompt for item in encoded), PROMPT_TOKENS))
    with _context(loaded(), contender.serve, n_ctx) as context:
        speed = measure_speed(context, text, repetitions=contender.bench.speed_repetitions)
    value = {"load_seconds": loaded.load_seconds, **asdict(speed)}
    journal.add(SPEED, contender.name, "", value)


def generate_answers(
    contender: Contender, requests: Sequence[AnswerRequest], journal: Journal
) -> None:
    """The model's greedy answers, prompts of a block batched together.

    How prompts are batched touches the last digits, and a quantized model makes words of them. So
    blocks are always made of all requests, a block is answered as a whole and from an empty KV
    cache: a benchmark that goes on after a kill gives the same answers.
    """
    size = BLOCK_ROUNDS * contender.bench.parallel
    blocks = [requests[first : first + size] for first in range(0, len(requests), size)]
    todo = [
        block
        for block in blocks
        if not all(journal.has(ANSWER, contender.name, request.id) for request in block)
    ]
    if not todo:
        return
    from tuneserve.serve.engine import Engine

    with (
        Engine(
            contender.path, engine_settings(contender.serve, contender.bench), steady=True
        ) as engine,
        progress(f"{contender.name}: answers", sum(map(len, todo)), unit="prompts") as advance,
    ):
        for block in todo:
            _answer_block(engine, block, _keeper(contender.name, journal, advance))


def engine_settings(serve: ServeSettings, bench: BenchSettings) -> ServeSettings:
    """Serve settings with a context for every prompt that is answered at a time, the same for base
    and tuned."""
    return offline_settings(serve, ctx=bench.ctx * bench.parallel, slots=bench.parallel)


Keep = Callable[[str, dict[str, Any]], None]
"""Called with a request's id and its answer."""


def _answer_block(engine: Any, block: Sequence[AnswerRequest], keep: Keep) -> None:
    from tuneserve.serve.engine import Completion, SamplingParams

    def on_done(index: int, completion: Completion) -> None:
        value = {
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "tokens": len(completion.tokens),
        }
        keep(block[index].id, value)

    samplings = [
        SamplingParams(temperature=0.0, max_tokens=request.max_tokens) for request in block
    ]
    engine.generate([request.encoded.prompt for request in block], samplings, on_done=on_done)


def _keeper(name: str, journal: Journal, advance: Callable[[float], None]) -> Keep:
    def keep(example: str, value: dict[str, Any]) -> None:
        journal.add(ANSWER, name, example, value)
        advance(1)

    return keep


def measure_noise_floor(
    contender: Contender, requests: Sequence[AnswerRequest], journal: Journal
) -> None:
    """The model's answers once more, batched in another order: what differs is chance."""
    shuffled = list(requests)
    random.Random(contender.bench.seed).shuffle(shuffled)  # noqa: S311 - no secret
    generate_answers(replace(contender, name=NOISE_FLOOR), shuffled, journal)


def measure_endpoint(
    encoded: Sequence[EncodedExample], bench: BenchSettings, journal: Journal
) -> None:
    """The answers of the model behind the endpoint that the journal does not hold yet."""
    todo = [item.example for item in encoded if not journal.has(ANSWER, ENDPOINT, item.example.id)]
    if not todo:
        return
    with progress("endpoint: answers", len(todo), unit="prompts") as advance:
        keep = _keeper(ENDPOINT, journal, advance)

        def on_answer(example: Example, answer: dict[str, Any]) -> None:
            keep(example.id, answer)

        ask_endpoint(todo, bench, on_answer)


def _context(model: LlamaModel, serve: ServeSettings, n_ctx: int) -> LlamaContext:
    """A context with the KV cache and threads that the served model has."""
    return served_context(
        model, serve, n_ctx=n_ctx, n_batch=LIKELIHOOD_BATCH, n_seq_max=PACKED_SEQUENCES
    )
