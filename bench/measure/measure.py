"""Run one model over the prompts and texts, and write down what it did."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property

from tuneserve.arrays import Ids
from tuneserve.bench.measure.answers import generate_answers
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.likelihood import PACKED_SEQUENCES, answer_likelihoods
from tuneserve.bench.measure.missing import ask_missing
from tuneserve.bench.measure.perplexity import perplexity_context, text_nll
from tuneserve.bench.measure.speed import (
    GENERATED_TOKENS,
    PROMPT_TOKENS,
    Timings,
    time_repetitions,
    turns,
)
from tuneserve.bench.measure.values import ANSWER, CHOICE, LIKELIHOOD, SPEED, TEXT
from tuneserve.bench.measure.work import ENDPOINT, TOGETHER, Contender, Workload
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import progress
from tuneserve.llama import LlamaContext, LlamaModel, served_context
from tuneserve.llama.lora import load_adapter, use_adapter
from tuneserve.settings import BenchSettings

LABELS = {LIKELIHOOD: "perplexity", CHOICE: "likelihood of the choices"}
LIKELIHOOD_BATCH = 512  # more makes every token attend over more masked cells of the cache


def measure(contender: Contender, workload: Workload, journal: Journal) -> None:
    """Everything of one model that the journal does not hold yet.

    A prompt is read once for its answer and the likelihood of its reference, where that is short.
    """
    generate_answers(contender, workload.requests, journal, likelihoods=True)
    with _ModelMeasurement(contender, journal) as measurement:
        measurement.likelihoods(LIKELIHOOD, workload.expected)
        measurement.likelihoods(CHOICE, workload.choices)
        measurement.texts(workload.texts)


def measure_answers(contender: Contender, workload: Workload, journal: Journal) -> None:
    """Only what the model answers, generated or chosen."""
    with _ModelMeasurement(contender, journal) as measurement:
        measurement.likelihoods(CHOICE, workload.choices)
    generate_answers(contender, workload.requests, journal)


def measure_speeds(
    contenders: Mapping[str, Contender], text: Sequence[int], journal: Journal
) -> None:
    """The speeds of all contenders, by name, on a text, if the journal does not hold those of one
    sitting."""
    if journal.has(SPEED, TOGETHER):
        return
    repetitions = next(iter(contenders.values())).bench.speed_repetitions
    found: dict[str, Timings] = {}
    with progress("speed, in turn", repetitions * len(contenders), unit="repetitions") as advance:
        for name, count in turns(list(contenders), repetitions):
            with _ModelMeasurement(contenders[name], journal) as measurement:
                found[name] = measurement.timings(text, count, found.get(name))
            advance(count)
    value = {
        name: {"load_seconds": timed.load_seconds, **asdict(timed.speed)}
        for name, timed in found.items()
    }
    journal.add(SPEED, TOGETHER, "", value)


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

    def likelihoods(self, kind: str, parts: Sequence[Sequence[EncodedExample]]) -> None:
        name, journal = self._contender.name, self._journal
        ids = [item.example.id for part in parts for item in part]
        known = {example for example in ids if journal.has(kind, name, example)}
        if len(known) == len(ids):
            return
        with (
            self._context(max(self._contender.bench.ctx, LIKELIHOOD_BATCH)) as context,
            progress(f"{name}: {LABELS[kind]}", len(ids) - len(known), unit="answers") as advance,
        ):
            for part in parts:
                for item, likelihood in answer_likelihoods(context, part, known=known):
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

    def timings(self, text: Sequence[int], repetitions: int, before: Timings | None) -> Timings:
        """So many repetitions on a text, added to those of the turn `before`."""
        with self._context(
            min(self._contender.bench.ctx, PROMPT_TOKENS + GENERATED_TOKENS)
        ) as context:
            found = time_repetitions(context, text, repetitions, into=before)
        found.load_seconds = self._load_seconds
        return found


def measure_endpoint(
    encoded: Sequence[EncodedExample], bench: BenchSettings, journal: Journal
) -> None:
    """The answers of the model behind the endpoint that the journal does not hold yet; prompts that
    failed are asked again."""
    examples = [item.example for item in encoded]
    ask_missing(
        examples, bench, journal,
        kind=ANSWER, model=ENDPOINT, label="endpoint: answers", unit="prompts",
    )  # fmt: skip
