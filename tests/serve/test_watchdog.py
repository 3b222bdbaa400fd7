"""What ends a server that can't go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.engine.tiny_llama import write_tiny_llama
from tests.support import ROOT
from tuneserve.serve import watchdog
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import (
    Engine,
    GrammarFailedError,
    SamplingParams,
    UnavailableError,
    sampling,
)
from tuneserve.serve.watchdog import Watchdog
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Engine]:
    write_tiny_llama(tmp_path / "tiny.gguf")
    with Engine(tmp_path / "tiny.gguf", ServeSettings(ctx=512, slots=2, threads=1)) as engine:
        yield engine


def test_a_step_that_hangs_ends_the_process_and_nothing_else_does(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watchdog, "LAST_WORDS_SECONDS", 0.05)
    monkeypatch.setattr(tiny, "_step_seconds", 0.2)
    ends: list[str] = []
    dog = Watchdog(tiny, seconds=60, end=lambda: ends.append("end"))
    goes_on = threading.Event()
    decode = tiny._decode

    def hang(chunks: object) -> object:
        goes_on.wait(30)
        return decode(chunks)  # type: ignore[arg-type]

    try:
        dog.look()
        monkeypatch.setattr(tiny, "_decode", hang)
        generation = tiny.submit([5, 6], SamplingParams(temperature=0.0, max_tokens=2))
        while not tiny.stalled:
            time.sleep(0.02)
        assert not tiny.is_open
        with pytest.raises(UnavailableError, match="hangs"):
            tiny.submit([5, 6], SamplingParams(max_tokens=1))
        dog.look()
        assert not ends
        assert "has not ended within" in capsys.readouterr().err
        time.sleep(0.1)
        dog.look()
        assert ends == ["end"]
        goes_on.set()
        assert len(generation.result().tokens) <= 2
        assert tiny.is_open
    finally:
        goes_on.set()
        dog.close()


def test_a_step_with_many_tokens_of_prompts_may_take_longer(tiny: Engine) -> None:
    assert tiny.step_limit == 60
    tiny.submit([5] * 256, SamplingParams(temperature=0.0, max_tokens=1)).result()
    assert tiny.step_limit >= 60


_HOLDS_THE_INTERPRETER = """
from types import SimpleNamespace
from tuneserve.serve.watchdog import Watchdog
Watchdog(SimpleNamespace(stalled=False), seconds=0.5).look()
number = 9
number ** (10 ** 8)
"""


def test_a_process_whose_interpreter_is_held_is_ended_by_the_kernel() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HOLDS_THE_INTERPRETER], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGALRM
    assert 'File "<string>"' in done.stderr


def test_a_grammar_that_takes_longer_than_its_share_ends_its_own_answer(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = GrammarCompiler(tiny.model).compile_regex("[a-z ]+", "grammar")
    bounded = SamplingParams(temperature=0.0, max_tokens=20, grammar=grammar)
    assert tiny.submit([5, 6], bounded).result().tokens
    monkeypatch.setattr(sampling, "SECONDS_AHEAD", 0.0)
    monkeypatch.setattr(sampling, "SECONDS_A_TOKEN", 0.0)
    slow = tiny.submit([5, 6], bounded)
    other = tiny.submit([5, 6], SamplingParams(temperature=0.0, max_tokens=3))
    with pytest.raises(GrammarFailedError, match="longer than its share"):
        slow.result()
    assert other.result().tokens
