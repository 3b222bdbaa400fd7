"""Endpoints that fail, refuse fields or answer in forms of their own."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.http_servers import answering
from tuneserve.bench.measure import endpoint
from tuneserve.bench.measure.endpoint import EndpointAnswer, ask_endpoint, read_reply
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.judge import judge_requests, measure_judge
from tuneserve.bench.measure.keys import endpoint_keys
from tuneserve.bench.measure.measure import measure_endpoint
from tuneserve.bench.measure.values import ANSWER
from tuneserve.bench.measure.work import ENDPOINT
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample
from tuneserve.errors import TuneserveError
from tuneserve.settings import BenchSettings


def completion(content: Any, **message: Any) -> dict[str, Any]:
    choice = {"message": {"content": content, **message}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"completion_tokens": 3}}


@dataclass
class Peer:
    """A server whose answer the prompt's text or the path decides; `bodies` is what was asked."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)


def _reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    text = body["messages"][-1]["content"]
    if "/key/" in path:
        return 401, {"error": {"message": "no such key"}}
    if "/mct/" in path and "max_tokens" in body:
        return 400, {"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'."}}
    if "/temp/" in path and "temperature" in body:
        return 400, {"error": {"message": "Unsupported value: 'temperature' must be 1."}}
    if text.startswith("forbidden"):
        return 403, {"error": {"message": "content policy"}}
    if text.startswith("gone"):
        return 404, {"error": {"message": "not for you"}}
    if text.startswith("status"):
        return int(text.split()[1]), {"error": {"message": "not this one"}}
    if text.startswith("much"):
        return 200, completion("word " * 100_000)
    if text.startswith("filtered") or "/refuses/" in path:
        return 400, {"error": {"message": "content filter"}}
    if "JUDGE REFUSES" in text:
        return 403, {"error": {"message": "content policy"}}
    if text.startswith("slow"):
        time.sleep(float(text.split()[1]))
    if text.startswith("html"):
        return 200, "<html>Busy</html>"
    if text.startswith("no choices"):
        return 200, {"choices": []}
    if text.startswith("null choices"):
        return 200, {"choices": None}
    if text.startswith("parts"):
        return 200, completion([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}])
    if text.startswith("thinks"):
        return 200, completion(None, reasoning_content="Hm.")
    return 200, completion(text.upper())


@contextmanager
def peer_at() -> Iterator[Peer]:
    found = Peer("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.bodies.append(body)
            status, answer = _reply(self.path, body)
            content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body["messages"][-1]["content"].startswith("drips"):
                for n in range(len(content)):
                    time.sleep(0.3)
                    self.wfile.write(content[n : n + 1])
                    self.wfile.flush()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        yield found


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    with peer_at() as found:
        yield found


def ask(peer: Peer, *texts: str, path: str = "/v1", **settings: Any) -> dict[str, dict[str, Any]]:
    known = {"endpoint": peer.url + path, "endpoint_model": "m", "parallel": 2, **settings}
    examples = [Example.of_turn(text, text, "y") for text in texts]
    asked = ask_endpoint(examples, BenchSettings.model_validate(known))
    return {example.id: answer for example, answer in asked}


def test_one_prompt_that_fails_fails_alone(peer: Peer) -> None:
    broken = ["filtered", "html", "no choices", "null choices"]
    found = ask(peer, "one", *broken, "two")
    assert (found["one"]["text"], found["two"]["text"]) == ("ONE", "TWO")
    reasons = {name: found[name]["failed"] for name in broken}
    assert "content filter" in reasons["filtered"]
    assert "<html>Busy</html>" in reasons["html"]
    assert "choices" in reasons["no choices"]
    assert "choices" in reasons["null choices"]


def test_answers_in_other_forms(peer: Peer) -> None:
    found = ask(peer, "parts", "thinks")
    assert found["parts"]["text"] == "in parts"
    assert (found["thinks"]["text"], found["thinks"]["thoughts"]) == ("", "Hm.")


@pytest.mark.parametrize(
    ("path", "name"), [("/mct/v1", "max_completion_tokens"), ("/temp/v1", "max_tokens")]
)
def test_a_field_that_is_refused_is_left_out(peer: Peer, path: str, name: str) -> None:
    found = ask(peer, "one", "two", "three", path=path, max_tokens=7)
    assert {answer["text"] for answer in found.values()} == {"ONE", "TWO", "THREE"}
    assert peer.bodies[-1][name] == 7
    assert ("temperature" in peer.bodies[-1]) == ("temp" not in path)
    assert {answer["sampled"] for answer in found.values()} == {"temp" in path}
    # The first two are refused at the same time, the third is asked in the form that is taken.
    assert len(peer.bodies) <= 5


def test_an_endpoint_that_is_silent_is_told_and_given_up(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(endpoint, "QUIET_SECONDS", 0.2)
    found = ask(peer, "one", "slow 0.7", "slow 2", parallel=1, endpoint_timeout=1.0)
    assert found["slow 0.7"]["text"] == "SLOW 0.7"
    assert "timed out" in found["slow 2"]["failed"]
    said = capsys.readouterr().err
    assert "no answer for 0 s. A prompt is given up after 1 s (--endpoint-timeout)" in said


def test_an_endpoint_that_drips_or_never_ends_is_given_up(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "LONGEST_REPLY", 1 << 16)
    began = time.monotonic()
    found = ask(peer, "one", "drips", "much", endpoint_timeout=1.5)
    assert time.monotonic() - began < 6
    assert found["one"]["text"] == "ONE"
    assert "timed out" in found["drips"]["failed"]
    assert "longer than" in found["much"]["failed"]


def test_errors_until_the_time_is_over_are_told(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "RETRIES", 8)
    found = ask(peer, "one", "status 500", endpoint_timeout=1.0)
    assert found["one"]["text"] == "ONE"
    said = "Request timed out: no whole answer in 1 s, after error 500"
    assert found["status 500"]["failed"] == said
    assert sum(body["messages"][-1]["content"] == "status 500" for body in peer.bodies) > 1


def test_a_prompt_that_is_forbidden_fails_alone(peer: Peer) -> None:
    """A content filter answers 403, or 404, as a key or a path that is wrong does."""
    found = ask(peer, "forbidden", "one", "gone", "two")
    assert (found["one"]["text"], found["two"]["text"]) == ("ONE", "TWO")
    assert "403" in found["forbidden"]["failed"]
    assert "404" in found["gone"]["failed"]
    with pytest.raises(TuneserveError, match="403") as caught:
        ask(peer, *(f"forbidden {n}" for n in range(50)))
    assert "OPENAI_API_KEY" in caught.value.hint
    assert len(peer.bodies) < 20


@pytest.mark.parametrize("count", [-5, 2.5, "two", 10**400, None, True])
def test_what_is_said_beside_an_answer_does_not_cost_it(count: object) -> None:
    reply = completion("Paris", reasoning=["x"], reasoning_content=3)
    reply["usage"] = {"completion_tokens": count}
    reply["choices"][0]["finish_reason"] = 1
    found = read_reply(json.dumps(reply))
    assert isinstance(found, EndpointAnswer)
    assert (found.text, found.tokens, found.finish_reason) == ("Paris", 0, "unknown")
    assert isinstance(read_reply(json.dumps(completion("x") | {"usage": [1]})), EndpointAnswer)


@contextmanager
def ctrl_c(*seconds: float) -> Iterator[None]:
    """Ctrl-C after so many seconds each, while the block runs."""
    main = threading.main_thread().ident
    assert main is not None
    # Tests in parallel processes ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressed = [threading.Timer(at, signal.pthread_kill, [main, signal.SIGINT]) for at in seconds]
    try:
        for one in pressed:
            one.start()
        yield
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for one in pressed:
            one.cancel()
        signal.signal(signal.SIGINT, before)


def kept_of(peer: Peer, *texts: str, seconds: float) -> list[str]:
    """Whose answers are handed over, in order, if Ctrl-C comes after so many seconds; writing down
    the first one takes 0.5 s."""
    settings = BenchSettings(endpoint=f"{peer.url}/v1", endpoint_model="m", parallel=2)
    examples = [Example.of_turn(text, text, "y") for text in texts]
    kept: list[str] = []

    def take() -> None:
        for example, answer in ask_endpoint(examples, settings):
            assert answer["text"] == example.id.upper()
            kept.append(example.id)
            until = time.monotonic() + (0.5 if len(kept) == 1 else 0.0)
            while time.monotonic() < until:
                time.sleep(0.05)

    with ctrl_c(seconds), pytest.raises(KeyboardInterrupt):
        take()
    return kept


def test_ctrl_c_waits_for_what_is_under_way(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    kept = kept_of(peer, "one", "slow 1.5", "slow 2", "slow 0.1", "two", seconds=1.0)
    assert kept == ["one", "slow 1.5", "slow 2"]
    asked = [body["messages"][0]["content"] for body in peer.bodies]
    assert sorted(asked) == ["one", "slow 1.5", "slow 2"]
    said = capsys.readouterr().err
    assert "2 requests are under way and waited for, 600 s at most (--endpoint-timeout)" in said
    assert "what was answered is kept" in said


def test_ctrl_c_while_an_answer_is_written_down(peer: Peer) -> None:
    kept = kept_of(peer, "one", "slow 1", "two", "three", seconds=0.3)
    assert kept[0] == "one"
    assert "slow 1" in kept
    assert len(kept) == len(peer.bodies) < 4


def test_what_is_under_way_has_no_more_than_its_time(peer: Peer) -> None:
    began = time.monotonic()
    with ctrl_c(0.5), pytest.raises(KeyboardInterrupt):
        ask(peer, "slow 6", "slow 6.5", endpoint_timeout=1.5)
    assert time.monotonic() - began < 4


def test_a_second_ctrl_c_ends_at_once(peer: Peer) -> None:
    began = time.monotonic()
    with ctrl_c(0.5, 1.0), pytest.raises(KeyboardInterrupt):
        ask(peer, "slow 6", "slow 6.5")
    assert time.monotonic() - began < 4


def test_further_fields_are_sent(peer: Peer) -> None:
    ask(peer, "one", endpoint_body='{"reasoning_effort": "low", "temperature": null}')
    (body,) = peer.bodies
    assert body["reasoning_effort"] == "low"
    assert "temperature" not in body
    with pytest.raises(ValueError, match="JSON object"):
        BenchSettings(endpoint_body="[]")


def test_what_every_prompt_meets_ends_it_at_once(peer: Peer) -> None:
    with pytest.raises(TuneserveError, match="no such key") as caught:
        ask(peer, *map(str, range(50)), path="/key/v1")
    assert "OPENAI_API_KEY" in caught.value.hint
    assert len(peer.bodies) < 50


def test_many_failures_in_a_row_end_it_and_what_was_answered_is_kept(peer: Peer) -> None:
    texts = ["good", *(f"filtered {n}" for n in range(100))]
    settings = BenchSettings(endpoint=f"{peer.url}/v1", endpoint_model="m", parallel=1)
    kept: dict[str, dict[str, Any]] = {}
    asked = ask_endpoint([Example.of_turn(text, text, "y") for text in texts], settings)
    with pytest.raises(TuneserveError, match="prompts in a row") as caught:
        kept.update((example.id, answer) for example, answer in asked)
    assert kept["good"]["text"] == "GOOD"
    assert len(kept) < 50
    assert "--endpoint-body" in caught.value.hint
    with pytest.raises(TuneserveError, match="content filter"):
        ask(peer, "one", path="/refuses/v1")


def measured(peer: Peer, path: Path, texts: list[str], **settings: Any) -> set[str]:
    """Which prompts have no answer once a benchmark has asked what the journal lacks."""
    known = {"endpoint": f"{peer.url}/v1", "endpoint_model": "m", "parallel": 2, **settings}
    examples = [Example.of_turn(text, text, "y") for text in texts]
    encoded = [EncodedExample(one, [1], [2], opens_thought=False) for one in examples]
    bench = BenchSettings.model_validate(known)
    with Journal(path, keys=endpoint_keys(encoded, bench)) as journal:
        measure_endpoint(encoded, bench, journal)
        return {text for text in texts if "failed" in journal.get(ANSWER, ENDPOINT, text)}


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500])
def test_a_run_that_asks_again_what_is_refused_ends_as_the_first_did(
    peer: Peer, tmp_path: Path, status: int
) -> None:
    texts = [f"status {status} of {n}" if n % 10 == 5 else f"good {n}" for n in range(60)]
    refused = {text for text in texts if text.startswith("status")}
    for asked in (60, 6, 6):
        peer.bodies.clear()
        assert measured(peer, tmp_path / "journal.jsonl", texts) == refused
        assert len(peer.bodies) == asked
    # And so does one of which no more than the refused prompts were left.
    good = [text for text in texts if text not in refused]
    assert measured(peer, tmp_path / "other.jsonl", good) == set()
    assert measured(peer, tmp_path / "other.jsonl", texts) == refused


def test_more_refused_prompts_than_may_fail_in_a_row_are_asked_again(
    peer: Peer, tmp_path: Path
) -> None:
    texts = [f"filtered {n}" if n % 2 else f"good {n}" for n in range(80)]
    refused = {text for text in texts if text.startswith("filtered")}
    for _ in range(2):
        assert measured(peer, tmp_path / "journal.jsonl", texts) == refused
    # Those that were not asked before still tell of an endpoint that is at fault.
    new = [f"forbidden {n}" for n in range(60)]
    with pytest.raises(TuneserveError, match=r"2\d prompts in a row; .* 403") as caught:
        measured(peer, tmp_path / "journal.jsonl", [*texts, *new])
    assert "OPENAI_API_KEY" in caught.value.hint
    assert measured(peer, tmp_path / "journal.jsonl", texts) == refused


def test_what_another_model_answered_does_not_count(peer: Peer, tmp_path: Path) -> None:
    texts = ["one", "two", *(f"forbidden {n}" for n in range(3))]
    measured(peer, tmp_path / "journal.jsonl", texts)
    with pytest.raises(TuneserveError, match="403"):
        measured(peer, tmp_path / "journal.jsonl", texts[2:], endpoint_model="other")


def test_an_endpoint_that_is_gone_is_told_whatever_it_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    texts = ["one", "filtered", "two"]
    path = tmp_path / "journal.jsonl"
    with peer_at() as peer:
        assert measured(peer, path, texts) == {"filtered"}
    with pytest.raises(TuneserveError, match="Connection error") as caught:
        measured(peer, path, texts)
    assert "Is a server listening there?" in caught.value.hint


def test_any_json_is_an_answer_or_a_reason() -> None:
    for text in ("", "null", "[]", '{"choices": [{}]}', '{"choices": [{"message": null}]}'):
        assert not isinstance(read_reply(text), EndpointAnswer)
    refused = read_reply(json.dumps(completion(None, refusal="I can't.")))
    assert isinstance(refused, EndpointAnswer)
    assert refused.text == "I can't."


def test_a_judge_is_asked_in_both_orders_and_once(peer: Peer, tmp_path: Path) -> None:
    settings = BenchSettings(judge=f"{peer.url}/v1", judge_model="j", parallel=1)
    example = Example.of_turn("1", "Capital?", "Paris")
    requests = judge_requests([(example, {"base": "Rome", "tuned": "Paris"})])
    with Journal(tmp_path / "journal.jsonl", "x") as journal:
        measure_judge(requests, settings, journal)
        measure_judge(requests, settings, journal)
    first, second = (body["messages"][0]["content"] for body in peer.bodies)
    assert "<answer_a>\nParis" in first
    assert "<answer_a>\nRome" in second
    assert peer.bodies[0]["max_tokens"] == 1024


def test_a_judge_that_refuses_a_question_is_asked_it_again(peer: Peer, tmp_path: Path) -> None:
    settings = BenchSettings(judge=f"{peer.url}/v1", judge_model="j", parallel=1)
    texts = {"1": "Capital?", "2": "JUDGE REFUSES"}
    requests = judge_requests(
        [
            (Example.of_turn(name, text, "Paris"), {"base": "Rome", "tuned": "Paris"})
            for name, text in texts.items()
        ]
    )
    for asked in (4, 2):
        peer.bodies.clear()
        with Journal(tmp_path / "journal.jsonl", "x") as journal:
            measure_judge(requests, settings, journal)
        assert len(peer.bodies) == asked
