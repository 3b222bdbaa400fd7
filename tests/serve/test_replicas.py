"""`tuneserve serve --replicas`: HAProxy in front of real servers of the demo model."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http_servers import answering
from tests.support import ROOT, ModulePaths, RunningServer, own_certificate, running_server
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.serve.replicas import haproxy
from tuneserve.serve.replicas.configuration import configuration, containers_configuration
from tuneserve.serve.replicas.process import ReplicaProcess, message_of, tell_of
from tuneserve.serve.replicas.shares import gpu_environment, threads_of_each, wanted_replicas
from tuneserve.settings import ServeSettings

needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="haproxy is not installed"
)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def replicas(demo_gguf: Path, module_paths: ModulePaths) -> Iterator[RunningServer]:
    """Two of them, with JSON logs and a folder for batches."""
    folder = module_paths.mktemp("replicas")
    (folder / "batches").mkdir()
    with running_server(
        folder / "log", str(demo_gguf), "--name", "demo", "--ctx", "2048", "--slots", "4",
        "--replicas", "2", "--log", "json", "--batch-dir", str(folder / "batches"),
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def http(replicas: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=replicas.url, timeout=60) as client:
        yield client


def until(reached: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def entries(running: RunningServer) -> list[dict[str, Any]]:
    """The log, every line of which has to be an object."""
    whole = running.output().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def logged(running: RunningServer, answer: httpx.Response) -> dict[str, Any]:
    """The log's object of an answer; its writer is under 'process'."""
    found: list[dict[str, Any]] = []

    def read() -> bool:
        request_id = answer.headers["X-Request-Id"]
        found[:] = [one for one in entries(running) if one.get("request_id") == request_id]
        return bool(found)

    until(read)
    return found[0]


def chat(system: str, question: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"messages": messages, "max_tokens": 2, **fields}


def processes(running: RunningServer) -> dict[str, int]:
    """Process id of each replica, by its name; of those that were started last."""
    found = re.findall(r"(replica \d+) is started \(process (\d+)\)", running.output())
    return {name: int(pid) for name, pid in found}


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    """All processes below one, its children's too."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(one) for task in tasks for one in task.read_text().split()]
    return own + [below for one in own for below in children(one)]


@needs_haproxy
@pytest.mark.slow
def test_what_begins_alike_is_found_again(replicas: RunningServer, http: httpx.Client) -> None:
    answered: set[str] = set()
    for start in range(6):
        system = f"You are number {start}. " + "Be brief and kind. " * 12
        answers = [http.post(CHAT, json=chat(system, f"Hi {n}")) for n in range(2)]
        (name,) = {logged(replicas, one.raise_for_status())["process"] for one in answers}
        answered.add(name)
        assert answers[1].json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 50
    assert answered == {"replica 1", "replica 2"}


class Slow(BaseHTTPRequestHandler):
    """Is ready, and takes its time for an answer."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(1.0)
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@needs_haproxy
def test_one_that_refuses_connections_costs_no_request(tmp_path: Path) -> None:
    """It has no requests, so that it is below its share: the other one is far above it."""
    with answering(Slow) as server, socket.create_server(("127.0.0.1", 0)) as gone:
        ports = [server.server_address[1], gone.getsockname()[1]]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        rules = tmp_path / "haproxy.cfg"
        rules.write_text(configuration(ServeSettings(replicas=2), ports, f"127.0.0.1:{port}"))
        with subprocess.Popen(["haproxy", "-db", "-f", rules], stderr=subprocess.DEVNULL) as proxy:
            try:
                url = f"http://127.0.0.1:{port}"
                until(lambda: answers(url))
                gone.close()
                with ThreadPoolExecutor(16) as pool, httpx.Client(base_url=url, timeout=30) as http:
                    asked = pool.map(lambda n: http.post(CHAT, json=chat(f"{n}", "Hi")), range(16))
                    assert [one.status_code for one in asked] == 16 * [200]
            finally:
                proxy.kill()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@needs_haproxy
@pytest.mark.slow
def test_stored_responses_are_found_by_what_names_them(http: httpx.Client) -> None:
    path = "/v1/responses"
    ids = []
    for n in range(4):
        body = {"input": f"Count to {n}.", "max_output_tokens": 16}
        ids.append(http.post(path, json=body).raise_for_status().json())
    assert {one["id"][:8] for one in ids} == {"resp_r1_", "resp_r2_"}
    for one in ids:
        turn = {"input": "And then?", "max_output_tokens": 16}
        http.post(path, json={**turn, "previous_response_id": one["id"]}).raise_for_status()
        reference = {"type": "item_reference", "id": one["output"][0]["id"]}
        items = [{"role": "user", "content": "Count."}, reference, {"role": "user", "content": "?"}]
        http.post(path, json={**turn, "input": items}).raise_for_status()
        assert http.get(f"{path}/{one['id']}").raise_for_status().json()["id"] == one["id"]
        assert http.get(f"{path}/{one['id']}/input_items").json()["data"]
        assert http.delete(f"{path}/{one['id']}").json()["deleted"]
        assert http.get(f"{path}/{one['id']}").status_code == 404


@needs_haproxy
@pytest.mark.slow
def test_files_figures_and_pages_behind_one_port(
    replicas: RunningServer, http: httpx.Client
) -> None:
    file = {"file": ("requests.jsonl", b"{}\n")}
    made = http.post("/v1/files", files=file, data={"purpose": "batch"}).raise_for_status().json()
    for _ in range(4):
        assert http.get(f"/v1/files/{made['id']}").json()["filename"] == "requests.jsonl"
    refused = http.get("/metrics")
    assert refused.status_code == 404
    assert "/metrics/1 to /metrics/2" in refused.json()["error"]["message"]
    for number in (1, 2):
        told = http.get(f"/metrics/{number}").raise_for_status()
        assert "tuneserve_waiting" in told.text
        assert logged(replicas, told)["process"] == f"replica {number}"
    # Both have to know the page that one of them has given out.
    page = http.get("/").text
    (token,) = re.findall(r'content="([\w-]{32})"', page) or re.findall(r'"([\w-]{32})"', page)
    headers = {"Origin": replicas.url, "X-Tuneserve-Page": token}
    assert {http.post("/tokenize", json={"content": "a"}, headers=headers).status_code
            for _ in range(4)} == {200}  # fmt: skip
    foreign = {"Origin": "http://elsewhere.example", "X-Tuneserve-Page": token}
    assert http.post("/tokenize", json={"content": "a"}, headers=foreign).status_code == 403
    assert http.get("/v1/models", headers={"Host": "elsewhere.example"}).status_code == 403
    assert http.get("/openapi.json").status_code == http.get("/ready").status_code == 200


@needs_haproxy
@pytest.mark.slow
def test_a_stream_comes_as_it_is_made_and_ends_with_its_client(
    replicas: RunningServer, http: httpx.Client
) -> None:
    body = chat("You are a story teller.", "Tell one.", stream=True, max_tokens=600)
    arrived: list[float] = []
    with http.stream("POST", CHAT, json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                arrived.append(time.monotonic())
            if len(arrived) == 8:
                break
    assert arrived[-1] - arrived[0] > 0.01
    started = time.monotonic()
    told = logged(replicas, answer)
    assert time.monotonic() - started < 10
    assert told["client"] == "127.0.0.1"
    assert told["tokens"] < 300
    # One that is not streamed has nothing to send that would show that nobody reads it.
    with pytest.raises(httpx.ReadTimeout):
        http.post(CHAT, json={**body, "stream": False}, timeout=0.5)
    until(lambda: '"status": 499' in replicas.output(), 5)


@needs_haproxy
@pytest.mark.slow
def test_no_request_is_lost_with_a_replica(replicas: RunningServer) -> None:
    asked: list[int] = []

    def ask(client: int) -> list[int]:
        with httpx.Client(base_url=replicas.url, timeout=60) as http:
            bodies = [chat(f"Client {client}.", f"Hi {n}", max_tokens=8) for n in range(4)]
            statuses = []
            for body in bodies:
                asked.append(client)
                statuses.append(http.post(CHAT, json=body).status_code)
            return statuses

    again = replicas.output().count("is ready again")
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ask, client) for client in range(6)]
        until(lambda: len(asked) >= 10)
        killed = processes(replicas)["replica 1"]
        os.kill(killed, signal.SIGKILL)
        assert {status for one in answers for status in one.result()} == {200}
    until(lambda: replicas.output().count("is ready again") == again + 1)
    assert processes(replicas)["replica 1"] != killed
    assert "replica 1 has ended (SIGKILL); it is started again" in replicas.output()


@needs_haproxy
@pytest.mark.slow
def test_a_signal_lets_answers_end_and_leaves_nothing_behind(
    demo_gguf: Path, tmp_path: Path
) -> None:
    options = (str(demo_gguf), "--ctx", "1024", "--slots", "2", "--replicas", "2")
    with running_server(tmp_path / "log", *options) as running:
        below = children(running.process.pid)
        assert len(below) >= 3
        body = chat("You are a story teller.", "Tell one.", stream=True, max_tokens=40)
        with httpx.stream("POST", running.url + CHAT, json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert running.process.wait(20) == 0
        assert not any(map(is_there, below))
        assert running.output().endswith("\nstopped\n")


def take_terminal() -> None:
    """A process's stdin becomes its terminal, whose end it hears of, also under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@needs_haproxy
@pytest.mark.slow
@pytest.mark.parametrize("replicas", ["1", "2"])
def test_a_terminal_that_closes_lets_answers_end(replicas: str, demo_gguf: Path) -> None:
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tuneserve", "serve", str(demo_gguf), "--ctx", "1024",
         "--threads", "1", "--port", "0", "--replicas", replicas],
        stdin=its_end, stdout=its_end, stderr=its_end, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(its_end)
    try:
        said = b""
        while (url := re.search(rb"(?m)^listening on (http\S+) ", said)) is None:
            said += os.read(terminal, 4096)
        body = chat("You are a story teller.", "Tell one.", stream=True, max_tokens=60)
        address = url[1].decode() + CHAT
        with httpx.stream("POST", address, json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.close(terminal)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@needs_haproxy
@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_sigkill_ends_the_children(
    demo_gguf: Path, tmp_path: Path
) -> None:
    options = (str(demo_gguf), "--ctx", "1024", "--slots", "2", "--replicas", "2")
    with running_server(tmp_path / "log", *options) as running:
        below = children(running.process.pid)
        body = chat("You are a story teller.", "Tell one.", stream=True, max_tokens=900)
        with httpx.stream("POST", running.url + CHAT, json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGINT)
            until(lambda: "stopping" in running.output())
            running.process.send_signal(signal.SIGINT)
            assert "shutting down" in "".join(lines)
        assert running.process.wait(10) == 1
        assert not any(map(is_there, below))
    with running_server(tmp_path / "log", *options) as running:
        below = children(running.process.pid)
        running.process.kill()
        running.process.wait()
        until(lambda: not any(map(is_there, below)), 5)


@needs_haproxy
@pytest.mark.slow
def test_keys_tls_and_every_address_of_the_machine(demo_gguf: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("the-key\n")
    keys.chmod(0o600)
    cert, key = own_certificate(tmp_path)
    options = [str(demo_gguf), "--ctx", "1024", "--replicas", "2", "--host", "0.0.0.0"]
    options += ["--api-key-file", str(keys), "--tls-cert", str(cert), "--tls-key", str(key)]
    trusted = ssl.create_default_context(cafile=str(cert))
    with running_server(tmp_path / "log", *options) as running:
        assert running.url.startswith("https://127.0.0.1:")
        with httpx.Client(base_url=running.url, verify=trusted) as http:
            assert http.get("/v1/models").status_code == 401
            http.headers["Authorization"] = "Bearer the-key"
            for host, status in (("192.0.2.7", 200), ("[2001:db8::1]:80", 200), ("a.example", 403)):
                assert http.get("/v1/models", headers={"Host": host}).status_code == status
        # Without its proxy nobody reaches it: that ends it, for others to start it again.
        (proxy,) = [pid for pid in children(running.process.pid)
                    if Path(f"/proc/{pid}/comm").read_text() == "haproxy\n"]  # fmt: skip
        below = children(running.process.pid)
        os.kill(proxy, signal.SIGKILL)
        assert running.process.wait(10) == 1
        assert "error: HAProxy has ended (SIGKILL)" in running.output()
        assert not any(map(is_there, below))


def test_without_haproxy_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(haproxy, "SYSTEM_FOLDERS", ())
    with pytest.raises(UsageError, match=r"serve\.replicas: .*HAProxy.*\n.*apt install haproxy"):
        haproxy.haproxy_program()
    old = tmp_path / "haproxy"
    old.write_text('#!/bin/sh\necho "HA-Proxy version 2.2.9-2+deb11u6 2023/12/18"\n')
    old.chmod(0o755)
    with pytest.raises(UsageError, match=r"2\.6 or later is needed; this is version 2\.2"):
        haproxy.haproxy_program()


@needs_haproxy
def test_bad_settings_are_refused_before_anything_is_loaded(
    tuneserve: Any, demo_gguf: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("key\n")
    admin = ("--admin-key-file", str(tmp_path / "keys"), "--adapter-dir", str(tmp_path))
    for arguments, told in ((admin, "--adapter-dir"), (("--port", "65534"), "no port is left")):
        done = tuneserve("serve", str(demo_gguf), "--port", "0", "--replicas", "3", *arguments)
        assert done.returncode == 2
        assert told in done.stderr
        assert "started" not in done.stderr


def test_a_replica_that_always_fails_ends_all() -> None:
    replica = ReplicaProcess(1, b"no order", {})
    try:
        with pytest.raises(TuneserveError, match="3 times in a row at once") as failed:
            until(replica.look)
    finally:
        replica.end()
    assert "JSONDecodeError" in failed.value.problems[-1]


def test_gpus_and_threads_are_shared_out() -> None:
    cuda = "CUDA_VISIBLE_DEVICES"
    assert [gpu_environment(n, 2, 2, {})[cuda] for n in (1, 2)] == ["0", "1"]
    assert [gpu_environment(n, 2, 4, {cuda: "3,5,6,7"})[cuda] for n in (1, 2)] == ["3,5", "6,7"]
    assert gpu_environment(1, 2, 0, {cuda: ""}) == {}
    assert threads_of_each(ServeSettings(threads=8), 3) == 2
    assert threads_of_each(ServeSettings(threads=1), 3) == 1
    auto = ServeSettings.model_validate({"replicas": "auto"})
    assert [wanted_replicas(auto, gpus) for gpus in (0, 1, 4)] == [1, 1, 4]
    assert wanted_replicas(ServeSettings(replicas=3), 0) == 3
    with pytest.raises(UsageError, match="2 of 3 replicas"):
        wanted_replicas(ServeSettings(replicas=3), 2)


def test_a_line_of_the_log_names_its_writer(capsys: pytest.CaptureFixture[str]) -> None:
    tell_of("replica 2", "stopped")
    assert capsys.readouterr().err == "replica 2: stopped\n"
    assert message_of('{"time": "now", "message": "error: no"}') == "error: no"
    assert message_of("[ALERT] {no") == "[ALERT] {no"


@needs_haproxy
@pytest.mark.slow
def test_every_line_of_a_json_log_is_an_object(replicas: RunningServer, http: httpx.Client) -> None:
    """The supervisor's, the replicas', and HAProxy's own of what it refuses."""
    with socket.create_connection(("127.0.0.1", replicas.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    answer = http.get("/v1/models").raise_for_status()
    assert logged(replicas, answer)["process"] in ("replica 1", "replica 2")
    until(lambda: any(one.get("process") == "proxy" for one in entries(replicas)))
    told = entries(replicas)
    assert all("time" in one for one in told)
    assert any(one.get("message", "").startswith("listening on ") for one in told)
    assert {"message", "time", "process"} == {
        key for one in told if one.get("process") == "proxy" for key in one
    }


def test_the_rules_have_one_home() -> None:
    assert (ROOT / "deploy" / "haproxy.cfg").read_text("utf-8") == containers_configuration()
