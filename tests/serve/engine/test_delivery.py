"""What listeners hear of an answer, and when: with llama.cpp's CPU, which has computed when
llama_decode returns, and with a device that still computes then, as GPUs do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.serve.engine.tiny_llama import write_tiny_llama
from tests.support import ModulePaths
from tuneserve.arrays import Floats
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaContext, TokenBatch
from tuneserve.serve.engine import Completion, Delta, Engine, EngineError, Event, SamplingParams
from tuneserve.serve.engine.delivery import Delivery
from tuneserve.serve.engine.request import Generation, Request
from tuneserve.settings import ServeSettings

STEP_SECONDS = 0.004
FREE = SamplingParams(temperature=0.0, max_tokens=12, ignore_end=True)


class Watched:
    """An engine whose `heard` are the calls of llama_decode and what listeners were told, in their
    order. `ahead`: a thread computes what llama_decode was called for, and takes some time."""

    def __init__(self, model: Path, *, ahead: bool, fails_at: int = 0) -> None:
        self.heard: list[str | Event] = []
        self._device = ThreadPoolExecutor(1)
        self._computed: Future[None] | None = None
        self._ahead = ahead
        self._fails_at = fails_at
        self._calls = 0
        self.engine = Engine(model, ServeSettings(ctx=1024, slots=4, threads=1, speculate="off"))
        context = self.engine._context
        self._decode, self._logits = context.decode, context.batch_logits
        changed: Any = context
        changed.decode, changed.batch_logits = self.decode, self.batch_logits

    def decode(self, batch: TokenBatch) -> None:
        self.heard.append("decode")
        self._calls += 1
        if self._calls == self._fails_at:
            raise TuneserveError("the device is gone")

        def compute() -> None:
            self._decode(batch)
            time.sleep(STEP_SECONDS)

        self._computed = self._device.submit(compute)
        if not self._ahead:
            self._computed.result()

    def batch_logits(self, outputs: int) -> Floats:
        if self._computed is not None:
            self._computed.result()
        return self._logits(outputs)

    def submit(self, text: str, sampling: SamplingParams) -> Generation:
        prompt = self.engine.model.tokenize(text)
        return self.engine.submit(prompt, sampling, stream=True, on_event=self.heard.append)

    def close(self) -> None:
        self.engine.close()
        self._device.shutdown()


@pytest.fixture(scope="module")
def tiny(module_paths: ModulePaths) -> Path:
    return write_tiny_llama(module_paths.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(params=[False, True], ids=["cpu", "ahead"])
def watched(tiny: Path, request: pytest.FixtureRequest) -> Iterator[Watched]:
    one = Watched(tiny, ahead=request.param)
    yield one
    one.close()


def tokens_of(events: list[str | Event]) -> list[int]:
    return [token for event in events if isinstance(event, Delta) for token in event.tokens]


def ends_of(events: list[str | Event]) -> list[Event]:
    return [event for event in events if isinstance(event, Completion | EngineError)]


def test_tokens_come_once_in_order_and_before_the_end(watched: Watched) -> None:
    done = watched.submit("hello", FREE).result(20)
    assert tokens_of(watched.heard) == list(done.tokens)
    assert len(done.tokens) == 12
    text = "".join(event.text for event in watched.heard if isinstance(event, Delta))
    assert text == done.text
    assert ends_of(watched.heard) == [done]
    assert watched.heard[-1] is done


@pytest.mark.parametrize("ahead", [False, True])
def test_a_device_that_computes_ahead_is_given_its_next_step_before_tokens_are_told(
    tiny: Path, ahead: bool
) -> None:
    watched = Watched(tiny, ahead=ahead)
    watched.submit("hello", replace(FREE, max_tokens=40)).result(20)
    watched.close()
    order = "".join("d" if event == "decode" else "t" for event in watched.heard)
    assert (order.count("d"), order.count("t")) == (40, 41)
    # Known after some steps, if no other process has the core just then.
    assert ("dd" in order) is ahead
    assert "ddd" not in order
    assert order.endswith("tt"), "the last token and the end come together"


def test_a_stop_string_ends_an_answer_in_the_step_that_completes_it(watched: Watched) -> None:
    free = watched.submit("hello", FREE).result(20)
    pieces = [watched.engine.model.token_bytes(token) for token in free.tokens]
    text = b"".join(pieces[:6]).decode("utf-8", "replace")
    del watched.heard[:]
    stop = text[-2:]
    done = watched.submit("hello", SamplingParams(0.0, max_tokens=12, stop=(stop,))).result(20)
    assert (done.finish_reason, done.stopped_by) == ("stop", stop)
    assert stop not in done.text
    assert len(done.tokens) <= 6
    assert watched.heard.count("decode") == len(done.tokens)
    shown = "".join(event.text for event in watched.heard if isinstance(event, Delta))
    assert shown == done.text


def test_who_leaves_between_decode_and_delivery_hears_all_that_was_drawn(watched: Watched) -> None:
    generation: list[Generation] = []
    events: list[str | Event] = []
    submitted = threading.Event()

    def hear(event: Event) -> None:
        submitted.wait(10)
        events.append(event)
        if len(events) == 5:
            generation[0].cancel()

    engine = watched.engine
    long = SamplingParams(temperature=0.0, max_tokens=500, ignore_end=True)
    prompt = engine.model.tokenize("hello")
    generation.append(engine.submit(prompt, long, stream=True, on_event=hear))
    submitted.set()
    done = generation[0].result(20)
    assert done.finish_reason == "cancelled"
    assert 5 <= len(done.tokens) <= 6
    assert tokens_of(events) == list(done.tokens)
    assert events[-1] is done


@pytest.mark.parametrize("ahead", [False, True])
def test_a_failing_step_loses_no_token_that_was_drawn(tiny: Path, ahead: bool) -> None:
    watched = Watched(tiny, ahead=ahead, fails_at=5)
    with pytest.raises(EngineError, match="the device is gone"):
        watched.submit("hello", FREE).result(20)
    watched.close()
    assert len(tokens_of(watched.heard)) == 4
    (end,) = ends_of(watched.heard)
    assert watched.heard[-1] is end


def test_a_listener_that_raises_costs_nobody_else_a_token() -> None:
    heard: list[Event] = []

    def refuse(event: Event) -> None:
        raise ValueError("no")

    requests = []
    for listener in (heard.append, refuse, heard.append):
        generation = Generation(listener)
        requests.append(Request([1, 2], SamplingParams(), generation, limit=100, stream=True))
    calls: list[int] = []
    delivery = Delivery(lambda: calls.append(len(heard)))
    for request in requests:
        request.advance(7, b"x", None)
        delivery.grown(request)
    with pytest.raises(ValueError, match="no"):
        delivery.hand_out()
    delivery.ended(requests[0], "stop")
    delivery.hand_out()
    assert [type(event) for event in heard] == [Delta, Delta, Completion]
    assert calls == [3]


def test_what_follows_soon_is_passed_on_together_but_for_firsts_and_ends() -> None:
    calls: list[int] = []
    delivery = Delivery(lambda: calls.append(1))
    request = Request([1], SamplingParams(), Generation(), limit=100, stream=True)
    delivery.hand_out()
    assert len(calls) == 1
    delivery.grown(request)
    delivery.hand_out()
    assert len(calls) == 1
    delivery.ended(request, "stop")
    delivery.hand_out()
    assert len(calls) == 2


def test_the_context_gives_one_view_of_its_rows(tiny: Path) -> None:
    with Engine(tiny, ServeSettings(ctx=512, slots=2, threads=1)) as engine:
        engine.generate([engine.model.tokenize("a")], FREE)
        context: LlamaContext = engine._context
        assert context.batch_logits(1) is context.batch_logits(1)
        assert context.batch_logits(1).shape == (1, engine.model.n_vocab)
