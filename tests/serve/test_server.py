"""`tuneserve serve` and `tuneserve chat` as commands: start, stop, and what can be wrong."""

from __future__ import annotations

import json
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.engine.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.slow


def test_port_in_use_is_one_line_before_the_model_is_loaded(
    tuneserve: Any, demo_gguf: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = tuneserve("serve", str(demo_gguf), "--port", str(port))
    assert done.returncode == 2
    assert f"error: 127.0.0.1:{port}: this port is in use" in done.stderr
    assert "loading" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.gguf"], 2, "missing.gguf: no such file"),
        (["text.gguf"], 2, "not a GGUF file"),
        (["short.gguf"], 2, "truncated or damaged"),
        (["--run", "nowhere"], 2, "no such run"),
        ([], 2, "say what to serve"),
        (["short.gguf", "--run", "x"], 2, "not both"),
        (["short.gguf", "--host", "no.such.host.invalid"], 2, "not an address"),
        (["short.gguf", "--api-key-file", "empty"], 2, "holds no API key"),
        (["short.gguf", "--cache-type-v", "q9"], 2, "q8_0"),
        (["short.gguf", "--draft", "missing.gguf"], 2, "missing.gguf: no such file"),
        (
            ["whole.gguf", "--draft", "tiny.gguf"],
            2,
            "tiny.gguf: a draft model needs the vocabulary",
        ),
    ],
)
def test_bad_input_is_named_without_a_traceback(
    tuneserve: Any, demo_gguf: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "text.gguf").write_text("not one")
    (tmp_path / "empty").write_text("# no key\n\n")
    write_tiny_llama(tmp_path / "tiny.gguf")
    (tmp_path / "whole.gguf").symlink_to(demo_gguf)
    with demo_gguf.open("rb") as whole:
        (tmp_path / "short.gguf").write_bytes(whole.read(20_000_000))
    done = tuneserve("serve", *arguments, "--port", "0", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_a_signal_and_a_chat(
    start_server: Any, tuneserve: Any, demo_gguf: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    keys = tmp_path / "keys"
    keys.write_text("first-key\n# a comment\nsecond-key\n")
    keys.chmod(0o600)
    log = tmp_path / "log"
    with start_server(log, str(demo_gguf), "--api-key-file", str(keys)) as running:
        assert "curl http://127.0.0.1:" in running.output()
        assert running.output().count("warning") == 0
        models = f"{running.url}/v1/models"
        assert httpx.get(f"{running.url}/health").status_code == 200
        refused = httpx.get(models)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(models, headers={"Authorization": "Bearer nope"}).status_code == 401
        granted = httpx.get(models, headers={"Authorization": "Bearer second-key"})
        assert granted.json()["data"][0]["id"] == demo_gguf.stem

        url = ["--url", f"{running.url}/v1", "--temperature", "0", "--max-tokens", "12"]
        denied = tuneserve("chat", *url, "--prompt", "Hi", "--api-key", "wrong")
        assert denied.returncode == 1
        assert "API key is needed" in denied.stderr
        monkeypatch.setenv("TUNESERVE_API_KEY", "first-key")
        asked = tuneserve("chat", *url, "--prompt", "What is 1+1?")
        assert asked.returncode == 0
        assert "2" in asked.stdout
        raw = tuneserve("chat", *url, "--prompt", "The capital of France is", "--raw")
        assert "Paris" in raw.stdout

        started = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - started < 3
    assert "stopped" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_the_first_signal_lets_answers_end(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    body = {"prompt": "Once", "temperature": 0, "logit_bias": {"2": -100, "0": -100}}
    statuses: list[Any] = []

    def ask(url: str, max_tokens: int) -> None:
        try:
            answer = httpx.post(
                f"{url}/v1/completions", json={**body, "max_tokens": max_tokens}, timeout=60
            )
            tokens = answer.json()["usage"]["completion_tokens"] if answer.is_success else 0
            statuses.append((answer.status_code, tokens))
        except httpx.TransportError:
            statuses.append("cut off")

    with start_server(tmp_path / "log", str(demo_gguf)) as running:
        client = threading.Thread(target=ask, args=(running.url, 120))
        client.start()
        wait_for_a_running_answer(running.url)
        assert running.stop(signal_number=signal.SIGINT) == 0
        client.join()
    assert statuses == [(200, 120)]


def wait_for_a_running_answer(url: str) -> None:
    deadline = time.monotonic() + 30
    while "tuneserve_running 1.0" not in httpx.get(f"{url}/metrics", timeout=30).text:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_second_signal_tells_every_request_and_ends_at_once(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    """One answer runs, two wait, and a thread tokenizes a long text."""
    told: dict[str, tuple[int, Any]] = {}
    endless = {"prompt": "Once", "max_tokens": 8000, "logit_bias": {"2": -100, "0": -100}}

    def ask(name: str, url: str, body: dict[str, Any]) -> None:
        answer = httpx.post(url, json=body, timeout=60)
        last = answer.text.strip().rpartition("\n")[2].removeprefix("data: ")
        told[name] = (answer.status_code, json.loads(last).get("error", {}).get("code"))

    log = tmp_path / "log"
    with start_server(log, str(demo_gguf), "--slots", "1") as running:
        text = f"{running.url}/v1/completions"
        hard = {"content": "a1! " * 400_000}
        clients = [
            threading.Thread(target=ask, args=("running", text, {**endless, "stream": True})),
            threading.Thread(target=ask, args=("queued", text, endless)),
            threading.Thread(target=ask, args=("queued stream", text, {**endless, "stream": True})),
            threading.Thread(target=ask, args=("hard", f"{running.url}/tokenize", hard)),
        ]
        for client in clients:
            client.start()
            time.sleep(0.4)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert running.process.poll() is None, "the answer is still being written"
        started = time.monotonic()
        assert running.stop() == 1
        assert time.monotonic() - started < 2
        for client in clients:
            client.join()
    told.pop("hard")  # answered where the machine is fast
    assert told == {
        "running": (200, "unavailable"),
        "queued": (503, "unavailable"),
        "queued stream": (503, "unavailable"),
    }
    assert "Traceback" not in log.read_text()
    assert "stopped before all requests were answered" in log.read_text()


def test_answers_that_outlast_the_drain_time_are_told_so(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    body = {"prompt": "Once", "max_tokens": 8000, "logit_bias": {"2": -100, "0": -100}}
    with start_server(tmp_path / "log", str(demo_gguf), "--drain-seconds", "0") as running:
        told: list[httpx.Response] = []
        url = f"{running.url}/v1/completions"
        client = threading.Thread(
            target=lambda: told.append(httpx.post(url, json=body, timeout=60))
        )
        client.start()
        wait_for_a_running_answer(running.url)
        assert running.stop() == 1
        client.join()
    assert told[0].json()["error"]["code"] == "unavailable"
    assert "Traceback" not in running.output()


def test_a_context_that_is_rounded_up_is_told(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    with start_server(tmp_path / "log", str(demo_gguf), "--ctx", "64") as running:
        assert "the context has 256 tokens, not 64" in running.output()


def test_a_draft_model_that_is_not_loaded_and_heads_that_are_not_used_are_told(
    start_server: Any, tmp_path: Path
) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", mtp_layers=1)
    options = ["--draft", str(model), "--speculate", "off", "--ctx", "256"]
    with start_server(tmp_path / "log", str(model), *options) as running:
        assert "the draft model is not loaded, since speculate is off" in running.output()
        assert "multi-token prediction (MTP), which are not used" in running.output()


def test_requests_that_do_not_arrive_are_ended(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    options = ["--receive-seconds", "1", "--keep-alive-seconds", "2"]
    with start_server(tmp_path / "log", str(demo_gguf), *options) as running:

        def sent(data: bytes) -> tuple[bytes, float]:
            """What comes back until the connection is closed, and when that is."""
            started = time.monotonic()
            with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
                connection.sendall(data)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            return answer, time.monotonic() - started

        for data in (b"", b"GET /health HTTP/1.1\r\nHo"):
            answer, seconds = sent(data)
            assert answer == b""
            assert 0.9 < seconds < 1.8
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += b"Content-Type: application/json\r\n"
        answer, seconds = sent(head + b"Content-Length: 50\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in answer
        assert 0.9 < seconds < 1.8
        answer, seconds = sent(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert 1.9 < seconds < 3.5


def test_a_signal_under_load_loses_no_request_that_was_taken(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    """24 clients ask without pause; what the server took is answered whole, and what comes after
    the signal is refused or finds nobody listening."""
    answered: list[int] = []
    refused: list[int] = []
    strange: list[object] = []

    def ask_on_and_on(url: str, number: int) -> None:
        body = {"prompt": f"Count: {number},", "max_tokens": 12, "stream": number % 2 == 0}
        while True:
            try:
                answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError) as error:
                # A connection the server never took up has no answer, not half of one.
                if isinstance(error, httpx.RemoteProtocolError) and "incomplete" in str(error):
                    strange.append(error)
                return
            whole = "data: [DONE]" in answer.text or '"finish_reason"' in answer.text
            if answer.status_code == 200 and whole:
                answered.append(number)
            elif answer.status_code == 503:
                refused.append(number)
                return
            else:
                strange.append((answer.status_code, answer.text))
                return

    log = tmp_path / "log"
    with start_server(log, str(demo_gguf), "--slots", "4", "--log", "json") as running:
        clients = [
            threading.Thread(target=ask_on_and_on, args=(running.url, number))
            for number in range(24)
        ]
        for client in clients:
            client.start()
        while len(answered) < 30 and not strange:
            time.sleep(0.05)
        assert running.stop(timeout=60) == 0
        for client in clients:
            client.join()
    lines = map(json.loads, log.read_text().splitlines())  # each is an object, messages too
    entries = [entry for entry in lines if "message" not in entry]
    assert not strange
    assert {entry["status"] for entry in entries} <= {200, 503}
    assert len(answered) == sum(entry["status"] == 200 for entry in entries) > 30
    assert all(entry["finish"] in ("stop", "length") for entry in entries if "finish" in entry)
    assert "Traceback" not in log.read_text()


def test_bound_wide_without_keys_is_refused_or_warned_of(
    start_server: Any, tuneserve: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    wide = (str(demo_gguf), "--host", "0.0.0.0")
    refused = tuneserve("serve", *wide)
    assert refused.returncode == 2
    assert "0.0.0.0 can be reached from other machines" in refused.stderr
    assert "--insecure" in refused.stderr
    with start_server(tmp_path / "log", *wide, "--insecure") as running:
        assert "warning: 0.0.0.0 can be reached from other machines" in running.output()
        assert running.url.startswith("http://127.0.0.1:")


def test_chat_without_a_server_says_so(tuneserve: Any) -> None:
    done = tuneserve("chat", "--url", "http://127.0.0.1:9/v1", "--prompt", "Hi")
    assert done.returncode == 1
    assert "no server answers here" in done.stderr
    assert "Traceback" not in done.stderr
    assert tuneserve("chat", "--raw").returncode == 2


def test_a_key_file_is_not_printed(start_server: Any, demo_gguf: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-secret\n")
    keys.chmod(stat.S_IRUSR)
    with start_server(tmp_path / "log", str(demo_gguf), "--api-key-file", str(keys)) as running:
        httpx.get(f"{running.url}/v1/models", headers={"Authorization": "Bearer a-secret"})
        assert "a-secret" not in running.output()
