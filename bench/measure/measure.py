"""Run one model over the prompts and texts, and write down what it did."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from tuneserve.arrays import Ids
from tuneserve.bench.measure.endpoint import ask_endpoint
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.likelihood import PACKED_SEQUENCES, answer_likelihoods
from tuneserve.bench.measure.perplexity import perplexity_context, text_nll
from tuneserve.bench.measure.speed import GENERATED_TOKENS, PROMPT_TOKENS, measure_speed
from tuneserve.bench.measure.values import ANSWER, CHOICE, LIKELIHOOD, SPEED, TEXT
from tuneserve.bench.tasks.thoughts import shown_marks
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import Advance, progress
from tuneserve.llama import LlamaContext, LlamaModel, served_context
from tuneserve.llama.lora import load_adapter, use_adapter
from tuneserve.serve.offload import offline_settings
from tuneserve.settings import BenchSettings, ServeSettings

if TYPE_CHECKING:
    from tuneserve.serve.engine import Engine

NOISE_FLOOR, ENDPOINT = "base again", "endpoint"
LABELS = {LIKELIHOOD: "perplexity", CHOICE: "likelihood of the choices"}
LIKELIHOOD_BATCH = 512  # more makes every token attend over more masked cells of the cache
BLOCK_ROUNDS = 8  # prompts in a block for each that is answered at a time


@dataclass(frozen=True)
class AnswerRequest:
    """A prompt to be answered with at most `max_tokens` tokens; `task` is what it belongs to.
    `until`: the prompt is a text, which is gone on with up to one of these; None: it is a
    conversation."""

    encoded: EncodedExample
    max_tokens: int
    task: str = ""
    until: tuple[str, ...] | None = None

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
    """A model to measure under a name ('base', 'tuned'), and how it is run; `lora` is a LoRA GGUF
    that goes on it."""

    name: str
    path: Path
    serve: ServeSettings
    bench: BenchSettings
    lora: Path | None = None


def measure(contender: Contender, workload: Workload, journal: Journal) -> None:
    """Everything of one model that the journal does not hold yet."""
    with _ModelMeasurement(contender, journal) as measurement:
        measurement.likelihoods(LIKELIHOOD, workload.expected)
        measurement.likelihoods(CHOICE, workload.choices)
        measurement.texts(workload.texts)
        measurement.speed(workload.expected)
    generate_answers(contender, workload.requests, journal)


def measure_answers(contender: Contender, workload: Workload, journal: Journal) -> None:
    """Only what the model answers, generated or chosen."""
    with _ModelMeasurement(contender, journal) as measurement:
        measurement.likelihoods(CHOICE, workload.choices)
    generate_answers(contender, workload.requests, journal)


class _ModelMeasurement(ExitStack):
    """What of one model the journal does not hold yet; the model is loaded if anything is."""

    def __init__(self, contender: Contender, journal: Journal) -> None:
        super().__init__()
        self._contender, self._journal = contender, journal
        self._load_seconds = 0.0

    @cached_property
    def _model(self) -> LlamaModel:
        serve, started = self._contender.serve, time.perf_counter()
        model = LlamaModel(self._contender.path, gpu_layers=serve.gpu_layers, mmap=serve.mmap)
        self._load_seconds = time.perf_counter() - started
        return self.enter_context(model)

    def _context(self, n_ctx: int) -> LlamaContext:
        """A context with the KV cache and threads that the served model has."""
        return self._with_lora(
            served_context(
                self._model,
                self._contender.serve,
                n_ctx=n_ctx,
                n_batch=LIKELIHOOD_BATCH,
                n_seq_max=PACKED_SEQUENCES,
            )
        )

    def _with_lora(self, context: LlamaContext) -> LlamaContext:
        if self._contender.lora is not None:
            use_adapter(context, load_adapter(self._model, self._contender.lora))
        return context

    def likelihoods(self, kind: str, encoded: Sequence[EncodedExample]) -> None:
        name, journal = self._contender.name, self._journal
        ids = [item.example.id for item in encoded]
        known = {example for example in ids if journal.has(kind, name, example)}
        if len(known) == len(ids):
            return
        with (
            self._context(max(self._contender.bench.ctx, LIKELIHOOD_BATCH)) as context,
            progress(f"{name}: {LABELS[kind]}", len(ids) - len(known), unit="answers") as advance,
        ):
            for item, likelihood in answer_likelihoods(context, encoded, known=known):
                journal.add(kind, name, item.example.id, asdict(likelihood))
                advance(0 if item.example.id in known else 1)

    def texts(self, texts: dict[str, Ids]) -> None:
        contender, journal = self._contender, self._journal
        todo = {
            name: ids for name, ids in texts.items() if not journal.has(TEXT, contender.name, name)
        }
        if not todo:
            return
        total = sum(map(len, todo.values()))
        with (
            self._with_lora(perplexity_context(self._model, contender.serve)) as context,
            progress(f"{contender.name}: texts", total, unit="chunks") as advance,
        ):
            for name, chunks in todo.items():
                losses = text_nll(context, chunks, advance)
                value = {"nll": losses.sum(axis=1).tolist(), "tokens_per_chunk": losses.shape[1]}
                journal.add(TEXT, contender.name, name, value)

    def speed(self, encoded: Sequence[EncodedExample]) -> None:
        contender = self._contender
        if self._journal.has(SPEED, contender.name):
            return
        text = list(islice(chain.from_iterable(item.prompt for item in encoded), PROMPT_TOKENS))
        with self._context(min(contender.bench.ctx, PROMPT_TOKENS + GENERATED_TOKENS)) as context:
            speed = measure_speed(context, text, repetitions=contender.bench.speed_repetitions)
        value = {"load_seconds": self._load_seconds, **asdict(speed)}
        self._journal.add(SPEED, contender.name, "", value)


def answer_blocks(
    requests: Sequence[AnswerRequest], parallel: int
) -> list[Sequence[AnswerRequest]]:
    """The requests in blocks that are answered as a whole. A block is of one task, so that another
    task beside it changes nothing."""
    size = BLOCK_ROUNDS * parallel
    tasks = [list(group) for _, group in groupby(requests, key=lambda request: request.task)]
    return [task[first : first + size] for task in tasks for first in range(0, len(task), size)]


def generate_answers(
    contender: Contender, requests: Sequence[AnswerRequest], journal: Journal
) -> None:
    """The model's greedy answers, prompts of a block batched together.

    How prompts are batched changes the last digits of the logits and so, at near ties, the words.
    Therefore blocks are always made of all requests, and a block is answered as a whole and from an
    empty KV cache: a benchmark that goes on after a kill gives the same answers.
    """
    todo = [
        block
        for block in answer_blocks(requests, contender.bench.parallel)
        if not all(journal.has(ANSWER, contender.name, request.id) for request in block)
    ]
    if not todo:
        return
    from tuneserve.serve.engine import Engine

    with (
        Engine(
            contender.path,
            engine_settings(contender.serve, contender.bench),
            lora=contender.lora,
            steady=True,
        ) as engine,
        progress(f"{contender.name}: answers", sum(map(len, todo)), unit="prompts") as advance,
    ):
        shown = _marks_of_thoughts(engine.model, contender.bench.think_tags)
        for block in todo:
            _answer_block(engine, contender.name, block, shown, journal, advance)


def _marks_of_thoughts(model: LlamaModel, think_tags: Sequence[str]) -> frozenset[int]:
    """The marks that tell thoughts from answers and are control tokens, which a text has not."""
    ids = map(model.tokenize, shown_marks(think_tags))
    return frozenset(one[0] for one in ids if len(one) == 1 and model.is_special(one[0]))


def engine_settings(serve: ServeSettings, bench: BenchSettings) -> ServeSettings:
    """Serve settings with a context for every prompt that is answered at a time, the same for base
    and tuned."""
    return offline_settings(serve, ctx=bench.ctx * bench.parallel, slots=bench.parallel)


def _answer_block(
    engine: Engine,
    name: str,
    block: Sequence[AnswerRequest],
    shown: frozenset[int],
    journal: Journal,
    advance: Advance,
) -> None:
    from tuneserve.serve.engine import Completion, SamplingParams

    def on_done(index: int, completion: Completion) -> None:
        value = {
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "tokens": len(completion.tokens),
        }
        journal.add(ANSWER, name, block[index].id, value)
        advance(1)

    samplings = [
        SamplingParams(
            temperature=0.0,
            max_tokens=request.max_tokens,
            stop=request.until or (),
            shown=shown if request.until is None else frozenset(),
        )
        for request in block
    ]
    engine.generate([request.encoded.prompt for request in block], samplings, on_done=on_done)


def measure_noise_floor(
    contender: Contender, requests: Sequence[AnswerRequest], journal: Journal
) -> None:
    """The model's answers once more, batched in another order: what differs is chance."""
    again = in_another_order(requests, contender.bench.seed)
    generate_answers(replace(contender, name=NOISE_FLOOR), again, journal)


def in_another_order(requests: Sequence[AnswerRequest], seed: int) -> list[AnswerRequest]:
    """The requests as they are asked for the noise floor."""
    shuffled = list(requests)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - no secret
    return shuffled


def measure_endpoint(
    encoded: Sequence[EncodedExample], bench: BenchSettings, journal: Journal
) -> None:
    """The answers of the model behind the endpoint that the journal does not hold yet; prompts that
    failed are asked again."""
    todo = [
        item.example
        for item in encoded
        if not journal.has(ANSWER, ENDPOINT, item.example.id)
        or "failed" in journal.get(ANSWER, ENDPOINT, item.example.id)
    ]
    if not todo:
        return
    with progress("endpoint: answers", len(todo), unit="prompts") as advance:
        for example, answer in ask_endpoint(todo, bench):
            journal.add(ANSWER, ENDPOINT, example.id, answer)
            advance(1)
