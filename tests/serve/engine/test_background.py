"""Background requests of an engine that is never without others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tuneserve.serve.engine import Completion, Engine, SamplingParams
from tuneserve.serve.engine.request import IN_BACKGROUND
from tuneserve.serve.engine.types import Event
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

SHORT = SamplingParams(temperature=0.0, max_tokens=4)


def test_the_background_goes_forward_whatever_comes(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneserve.serve.engine.background.PATIENCE_SECONDS", 0.05)
    settings = ServeSettings(ctx=512, slots=1, threads=1, max_queue=1, embeddings=True)
    with Engine(demo_gguf, settings) as engine:
        prompt = engine.model.tokenize("The capital of France is")
        ended: list[Event] = []
        # The queue is full: of what is in the background it takes no notice, nor the other way.
        others = [engine.submit(prompt, SHORT, on_event=ended.append) for _ in range(2)]
        token = IN_BACKGROUND.set(True)
        behind: list[Event] = []
        for _ in range(3):
            engine.submit(prompt, SHORT, on_event=behind.append)
        vectors = engine.embed([prompt, prompt])
        IN_BACKGROUND.reset(token)
        deadline = time.monotonic() + 30
        while len(behind) < 3 or not vectors.done():
            assert time.monotonic() < deadline
            if len(others) - len(ended) < 2:
                others.append(engine.submit(prompt, SHORT, on_event=ended.append))
            time.sleep(0.002)
        for one in others:
            one.result(30)
    assert all(isinstance(one, Completion) and len(one.tokens) == 4 for one in [*behind, *ended])
