"""The server that clients are measured against, and when the first piece of an answer is there."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuneserve.bench.measure import keys
from tuneserve.bench.measure.clients import _ask, measure_clients, read_served, served
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.work import Contender
from tuneserve.errors import TuneserveError
from tuneserve.settings import BenchSettings, ServeSettings

PROMPT = [{"role": "user", "content": "6 x 7?"}]


def client(*deltas: dict[str, str]) -> Any:
    """Streams the deltas, 10 ms apart, as the openai client hands them out."""
    from openai.types.chat import ChatCompletionChunk

    def stream(**_: object) -> Iterator[ChatCompletionChunk]:
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        for place, delta in enumerate([*deltas, None]):
            time.sleep(0.01)
            choices = [] if delta is None else [{"index": 0, "delta": delta}]
            yield ChatCompletionChunk.model_validate(
                {"id": "x", "created": 0, "model": "m", "object": "chat.completion.chunk",
                 "choices": choices, "usage": usage if place == len(deltas) else None}
            )  # fmt: skip

    completions = SimpleNamespace(create=stream)
    return SimpleNamespace(chat=SimpleNamespace(completions=completions), base_url="http://here")


def test_a_thought_is_a_first_token_too() -> None:
    role = {"role": "assistant"}
    first, tokens = _ask(client(role, {"reasoning_content": "Six"}, {"content": "42"}), PROMPT, {})
    assert 0.02 <= first < 0.03 + 0.02
    assert tokens == 3
    only_thoughts, _ = _ask(client(role, {"reasoning_content": "Six"}), PROMPT, {})
    assert only_thoughts >= 0.02


def test_no_text_at_all_is_an_error() -> None:
    with pytest.raises(TuneserveError, match="no text"):
        _ask(client({"role": "assistant"}), PROMPT, {})


def test_the_server_is_ours_whatever_the_folder_holds(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tuneserve.py", "serve.py", "click.py"):
        (tmp_path / name).write_text("raise SystemExit('not the one that was meant')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with (
        served(demo_gguf, ServeSettings(port=0, ctx=256)) as server,
        urllib.request.urlopen(f"{server.url}/health") as answer,
    ):
        assert answer.status == 200


def test_numbers_of_clients_are_measured_in_one_sitting(demo_gguf: Path, tmp_path: Path) -> None:
    """What a sitting that was cut off, or one of other numbers, has measured is not set beside."""
    bench = BenchSettings(clients=(1, 2), ctx=256)
    contender = Contender("tuned", demo_gguf, ServeSettings(threads=1), bench)
    with Journal(tmp_path / "journal.jsonl") as journal:
        measure_clients(contender, [PROMPT], journal)
        load, start = read_served(journal, "tuned")
        assert [level.clients for level in load] == [1, 2]
        assert start.seconds > 0
        absent = replace(contender, path=tmp_path / "absent.gguf")
        measure_clients(absent, [PROMPT], journal)  # nothing is missing
    one, both = (
        keys.served_keys({}, [PROMPT], contender.serve, bench.model_copy(update={"clients": each}))
        for each in ((2,), (1, 2))
    )
    assert one.keys() == both.keys()
    assert one != both


def test_no_clients_are_no_server(tmp_path: Path) -> None:
    contender = Contender(
        "tuned", tmp_path / "absent.gguf", ServeSettings(), BenchSettings(clients=())
    )
    with Journal(tmp_path / "journal.jsonl") as journal:
        measure_clients(contender, [], journal)
        assert len(journal) == 0
