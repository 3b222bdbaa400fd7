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
        (["short.gguf"], 1, "can't load it"),
        (["--run", "nowhere"], 2, "no such run"),
        ([], 2, "say what to serve"),
        (["short.gguf", "--run", "x"], 2, "not both"),
        (["short.gguf", "--host", "no.such.host.invalid"], 2, "not an address"),
        (["short.gguf", "--api-key-file", "empty"], 2, "holds no API key"),
        (["short.gguf", "--cache-type-v", "q9"], 2, "q8_0"),
    ],
)
def test_bad_input_is_named_without_a_traceback(
    tuneserve: Any, demo_gguf: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "text.gguf").write_text("not one")
    (tmp_path / "empty").write_text("# no key\n\n")
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


def test_the_first_signal_lets_answers_end_and_the_second_does_not(
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
        client = threading.Thread(target=ask, args=(running.url, 60))
        client.start()
        time.sleep(0.5)
        assert running.stop(signal_number=signal.SIGINT) == 0
        client.join()
    assert statuses == [(200, 60)]

    with start_server(tmp_path / "log", str(demo_gguf)) as running:
        client = threading.Thread(target=ask, args=(running.url, 8000))
        client.start()
        time.sleep(0.5)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert running.process.poll() is None, "the answer is still being written"
        started = time.monotonic()
        running.stop()
        assert time.monotonic() - started < 3
        client.join()
    assert statuses[1] in ("cut off", (500, 0))


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
    entries = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert not strange
    assert {entry["status"] for entry in entries} <= {200, 503}
    assert len(answered) == sum(entry["status"] == 200 for entry in entries) > 30
    assert all(entry["finish"] in ("stop", "length") for entry in entries if "finish" in entry)
    assert "Traceback" not in log.read_text()


def test_bound_wide_without_keys_is_warned_of(
    start_server: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    with start_server(tmp_path / "log", str(demo_gguf), "--host", "0.0.0.0") as running:
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
