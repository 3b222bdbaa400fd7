"""Prometheus metrics of one server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tuneserve.serve.engine import Completion, Engine, EngineStats
from tuneserve.serve.engine.acceptance import SOURCES, Source

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counts what is answered; reads the engine's state when asked."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine))
        self.registry.register(AdapterCollector(engine))
        self._batches = BatchCollector()
        self.registry.register(self._batches)
        counter = partial(Counter, registry=self.registry)
        seconds = partial(Histogram, buckets=SECONDS, registry=self.registry)
        self._requests = counter("tuneserve_requests", "HTTP requests", ("path", "status"))
        self._refused = counter(
            "tuneserve_refused_connections", "Connections cut or not taken", ("reason",)
        )
        self._prompt = counter("tuneserve_prompt_tokens", "Prompt tokens of ended answers")
        self._cached = counter("tuneserve_cached_tokens", "Prompt tokens that the prefix cache had")
        self._generated = counter("tuneserve_generated_tokens", "Generated tokens")
        self._first = seconds(
            "tuneserve_first_token_seconds", "Time from a request to its first token"
        )
        self._whole = seconds("tuneserve_answer_seconds", "Time from a request to its end")

    def watch(self, batches: CountedBatches) -> None:
        """Tell these batches too."""
        self._batches.batches = batches

    def answered(self, completion: Completion) -> None:
        """An answer has ended."""
        timings = completion.timings
        first = timings.queue + timings.prompt
        self._prompt.inc(completion.prompt_tokens)
        self._cached.inc(completion.cached_tokens)
        self._generated.inc(len(completion.tokens))
        self._first.observe(first)
        self._whole.observe(first + timings.generation)

    def requested(self, path: str, status: int) -> None:
        """An HTTP request has ended; `path` is a route, not what the client wrote."""
        self._requests.labels(path, str(status)).inc()

    def refused(self, reason: str) -> None:
        """A connection was cut, or not taken, before it had a request."""
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        """The exposition format, as Prometheus reads it."""
        return generate_latest(self.registry)


class CountedBatches(Protocol):
    """What is told of batches."""

    def by_status(self) -> Mapping[str, int]:
        """How many there are in each status."""

    @property
    def lines_written(self) -> Mapping[str, int]:
        """Lines since the process began, by how they ended."""


class BatchCollector(Collector):
    """Batches and their lines, if there are any to watch."""

    batches: CountedBatches | None = None

    def collect(self) -> Iterable[Metric]:
        if self.batches is None:
            return
        gauge = GaugeMetricFamily("tuneserve_batches", "Batches", labels=("status",))
        for status, count in self.batches.by_status().items():
            gauge.add_metric((status,), count)
        yield gauge
        lines = CounterMetricFamily(
            "tuneserve_batch_lines", "Lines of batches that have ended", labels=("result",)
        )
        for result, count in self.batches.lines_written.items():
            lines.add_metric((result,), count)
        yield lines


class AdapterCollector(Collector):
    """The adapters in memory, and the requests for those that are served now: names come from
    people who may load adapters, and there are at most as many as may be loaded."""

    def __init__(self, engine: Engine) -> None:
        self._adapters = engine.adapters

    def collect(self) -> Iterable[Metric]:
        adapters = self._adapters
        yield GaugeMetricFamily("tuneserve_adapters", "LoRA adapters in memory", adapters.loaded)
        yield GaugeMetricFamily(
            "tuneserve_adapter_bytes", "Size of the adapters in memory", adapters.loaded_bytes
        )
        requests = CounterMetricFamily(
            "tuneserve_adapter_requests", "Answers asked of an adapter", labels=("adapter",)
        )
        for one in adapters.served:
            requests.add_metric((one.name,), one.requests)
        yield requests


class EngineCollector(Collector):
    """The engine's statistics at the moment they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats()
        gauges = {
            "running": ("Requests in a slot", stats.running),
            "waiting": ("Requests waiting for a slot", stats.waiting),
            "slots": ("Requests that can run at the same time", stats.slots),
            "kv_cells_used": ("KV cache cells in use", stats.cells_used),
            "kv_cells": ("KV cache cells", stats.cells),
            "cached_prefixes": ("Finished requests whose prefix is kept", stats.cached_prefixes),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"tuneserve_{name}", text, value)
        yield CounterMetricFamily(
            "tuneserve_preemptions", "Requests preempted by a full KV cache", stats.preemptions
        )
        yield CounterMetricFamily("tuneserve_steps", "Steps of the engine", stats.steps)
        yield CounterMetricFamily(
            "tuneserve_drafted_tokens", "Tokens computed as guesses", sum(stats.drafted.values())
        )
        yield CounterMetricFamily(
            "tuneserve_accepted_tokens",
            "Guessed tokens that were right",
            sum(stats.accepted.values()),
        )
        yield _by_source(
            "drafted", "Tokens computed as guesses, by where they come from", stats.drafted
        )
        yield _by_source(
            "accepted", "Guessed tokens that were right, by where they come from", stats.accepted
        )
        if stats.draft_cells:
            yield from _of_draft_model(stats)


def _by_source(name: str, text: str, counts: Mapping[Source, int]) -> Metric:
    family = CounterMetricFamily(f"tuneserve_{name}_tokens_by_source", text, labels=("source",))
    for source in SOURCES:
        family.add_metric((source,), counts.get(source, 0))
    return family


def _of_draft_model(stats: EngineStats) -> Iterable[Metric]:
    gauges = {
        "kv_cells_used": ("The draft model's KV cache cells in use", stats.draft_cells_used),
        "kv_cells": ("The draft model's KV cache cells", stats.draft_cells),
        "usable": ("1 unless the draft model has failed", int(stats.draft_usable)),
    }
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(f"tuneserve_draft_{name}", text, value)
    yield CounterMetricFamily(
        "tuneserve_draft_refused",
        "Steps in which the draft model's KV cache had no room for guesses",
        stats.draft_refused,
    )
