"""The batch API as the openai client uses it, cancelled, refused, killed and gone on with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support import ModulePaths, Runner, RunningServer

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is 1+1?"}]
ENDLESS: dict[str, Any] = {"logit_bias": {"2": -100, "0": -100}}
Start = Callable[..., Any]


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    if url == CHAT:
        body = {"messages": MESSAGES, "max_tokens": 2, "temperature": 0, **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(*lines: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def client_of(server: RunningServer, key: str = "none") -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60)


def begin(client: Any, content: bytes, endpoint: Any = CHAT) -> Any:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
    )


def ended(client: Any, batch: Any) -> Any:
    deadline = time.monotonic() + 60
    while (batch := client.batches.retrieve(batch.id)).status not in (
        "completed", "failed", "cancelled", "expired",
    ):  # fmt: skip
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
    return batch


def lines_of(client: Any, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]


@pytest.fixture(scope="module")
def arguments(demo_gguf: Path, module_paths: ModulePaths) -> list[str]:
    folder = module_paths.mktemp("batches")
    (folder / "keys").write_text("first\nsecond\n")
    return [
        str(demo_gguf), "--name", "demo", "--ctx", "2048", "--slots", "2", "--embeddings",
        "--batch-dir", str(folder / "kept"), "--batch-storage", "0.0005",
        "--api-key-file", str(folder / "keys"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def server(
    arguments: list[str], start_server: Start, module_paths: ModulePaths
) -> Iterator[RunningServer]:
    with start_server(module_paths.mktemp("log") / "log", *arguments) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Any:
    return client_of(server, "first")


def test_answers_and_errors_come_line_by_line(client: Any) -> None:
    batch = begin(
        client,
        jsonl(line("a"), line("b", temperature=9), line("c", stream=True), line("d", n=2))
        + b"\n"
        + jsonl(line("ü\n", model="nope")).rstrip(b"\n"),
    )
    assert batch.status in ("validating", "in_progress")
    batch = ended(client, batch)
    assert (batch.status, batch.metadata) == ("completed", {"a": "b"})
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 2, 3)
    assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at < batch.expires_at
    answers = {one["custom_id"]: one for one in lines_of(client, batch.output_file_id)}
    assert set(answers) == {"a", "d"}
    whole = answers["a"]["response"]
    assert whole["status_code"] == 200
    assert whole["request_id"].startswith("req-")
    assert whole["body"]["object"] == "chat.completion"
    assert len(answers["d"]["response"]["body"]["choices"]) == 2
    errors = {one["custom_id"]: one["response"] for one in lines_of(client, batch.error_file_id)}
    assert {one: error["status_code"] for one, error in errors.items()} == {
        "b": 400, "c": 400, "ü\n": 404,
    }  # fmt: skip
    assert errors["b"]["body"]["error"]["param"] == "temperature"
    told = [one["response"]["body"]["usage"] for one in answers.values()]
    assert batch.usage.input_tokens == sum(one["prompt_tokens"] for one in told)
    assert batch.usage.output_tokens == sum(one["completion_tokens"] for one in told) == 6
    assert batch.model == "demo"
    metrics = client.get("/../metrics", cast_to=httpx.Response).text
    assert 'tuneserve_batches{status="completed"}' in metrics
    assert 'tuneserve_batch_lines_total{result="failed"}' in metrics


@pytest.mark.parametrize(
    ("endpoint", "body", "kind"),
    [
        ("/v1/completions", {"prompt": "1 + 1 =", "max_tokens": 2}, "text_completion"),
        ("/v1/embeddings", {"input": ["a", "b"], "model": "demo"}, "list"),
    ],
)
def test_every_path_is_answered_as_over_http(
    client: Any, endpoint: str, body: dict[str, Any], kind: str
) -> None:
    batch = ended(client, begin(client, jsonl(line("x", endpoint, **body)), endpoint))
    (answer,) = lines_of(client, batch.output_file_id)
    assert answer["response"]["body"]["object"] == kind


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (jsonl(line("a"), line("a")), "duplicate_custom_id", 2),
        (jsonl(line("a"), line("b", "/v1/completions")), "mismatched_url", 2),
        (jsonl(line("a")) + b"{\n", "invalid_json_line", 2),
        (b"[" * 100_000 + b"\n", "invalid_json_line", 1),
        (jsonl({"custom_id": "a", "method": "GET", "url": CHAT, "body": {}}), "invalid_line", 1),
        (jsonl({"custom_id": "a", "method": "POST", "url": CHAT, "body": 1}), "invalid_line", 1),
        (b"\xff\xfe\n", "invalid_json_line", 1),
        (b"\n \n", "empty_file", None),
    ],
)
def test_a_file_that_is_wrong_fails_the_batch_and_names_the_line(
    client: Any, content: bytes, code: str, number: int | None
) -> None:
    batch = ended(client, begin(client, content))
    assert batch.status == "failed"
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, number)
    assert batch.output_file_id is None
    client.files.delete(batch.input_file_id)


def test_a_batch_is_cancelled_and_what_was_done_is_kept(client: Any) -> None:
    batch = begin(client, jsonl(line("short"), *(
        line(f"long{number}", max_tokens=1000, **ENDLESS) for number in range(4)
    )))  # fmt: skip
    while not client.batches.retrieve(batch.id).request_counts.completed:
        time.sleep(0.02)
    with pytest.raises(openai.ConflictError, match="has not ended reads this file"):
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("cancelled", 1)
    assert [one["custom_id"] for one in lines_of(client, batch.output_file_id)] == ["short"]
    undone = lines_of(client, batch.error_file_id)
    assert [one["custom_id"] for one in undone] == [f"long{number}" for number in range(4)]
    assert {one["error"]["code"] for one in undone} == {"batch_cancelled"}
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        client.batches.cancel(batch.id)


def test_files_and_batches_are_of_one_key(server: RunningServer, client: Any) -> None:
    other = client_of(server, "second")
    batch = ended(client, begin(client, jsonl(line("a"))))
    asks: list[Callable[[], object]] = [
        lambda: other.files.retrieve(batch.input_file_id),
        lambda: other.files.content(batch.output_file_id),
        lambda: other.files.delete(batch.input_file_id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.batches.create(
            input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
        ),
        lambda: client.files.retrieve("../../keys"),
        lambda: client.batches.retrieve("batch_nope"),
    ]
    for ask in asks:
        with pytest.raises(openai.NotFoundError):
            ask()
    assert other.files.list().data == []
    assert other.batches.list().data == []


def test_lists_are_paged(client: Any) -> None:
    made = [client.files.create(file=("x.jsonl", b"x"), purpose="batch").id for _ in range(3)]
    newest = client.files.list(limit=2, purpose="batch")
    assert [one.id for one in newest.data] == [made[2], made[1]]
    assert newest.has_more
    after = client.files.list(after=made[1], limit=1)
    assert [one.id for one in after.data] == [made[0]]
    with pytest.raises(openai.NotFoundError):
        client.files.list(after="file-nope")
    for file_id in made:
        assert client.files.delete(file_id).deleted
    batches = [ended(client, begin(client, jsonl(line("a")))).id for _ in range(2)]
    first = client.batches.list(limit=1)
    assert ([one.id for one in first.data], first.has_more) == ([batches[1]], True)
    assert client.batches.list(after=batches[1], limit=1).data[0].id == batches[0]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
        (b"--x--", "multipart/form-data; boundary=x", 400),
        (b"junk", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n" * 1000, "multipart/form-data; boundary=x", 400),
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nab', "multipart/form-data; "
         "boundary=x", 400),
        (b"{}", "multipart/form-data", 400),
        (b"x" * 600_000, "multipart/form-data; boundary=x", 413),
    ],
)  # fmt: skip
def test_uploads_that_are_none_are_refused(
    server: RunningServer, body: bytes, content_type: str, status: int
) -> None:
    headers = {"Authorization": "Bearer first", "Content-Type": content_type}
    answer = httpx.post(f"{server.url}/v1/files", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, "file")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/octet-stream"])
def test_an_upload_is_a_form(server: RunningServer, kind: str) -> None:
    headers = {"Authorization": "Bearer first", "Content-Type": kind}
    answer = httpx.post(f"{server.url}/v1/files", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"purpose": "fine-tune"}, "purpose"), ({}, "purpose"), ({"purpose": "batch", "x": "1"}, "x")],
)
def test_fields_of_uploads_that_can_not_be_honoured_are_refused(
    server: RunningServer, fields: dict[str, str], param: str
) -> None:
    answer = httpx.post(
        f"{server.url}/v1/files",
        data=fields,
        files={"file": ("x.jsonl", b"{}")},
        headers={"Authorization": "Bearer first"},
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_pages_of_elsewhere_do_not_upload(server: RunningServer) -> None:
    statuses = []
    for origin in ("http://elsewhere.example", "null", server.url):
        answer = httpx.post(
            f"{server.url}/v1/files",
            data={"purpose": "batch"},
            files={"file": ("x.jsonl", b"{}")},
            headers={"Authorization": "Bearer first", "Origin": origin},
        )
        statuses.append(answer.status_code)
    assert statuses == [403, 403, 200]


def test_batches_that_can_not_be_are_refused(client: Any) -> None:
    file = client.files.create(file=("x.jsonl", jsonl(line("a"))), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="A batch is for one of /v1/chat/completions"):
        client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/files",
            completion_window="24h",
        )
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        client.batches.create(
            input_file_id=file.id,
            endpoint=CHAT,
            completion_window="1h",
        )
    done = ended(client, begin(client, jsonl(line("a"))))
    with pytest.raises(openai.BadRequestError, match="purpose is not 'batch'"):
        client.batches.create(
            input_file_id=done.output_file_id, endpoint=CHAT, completion_window="24h"
        )
    client.files.delete(file.id)


def test_others_are_answered_first(client: Any) -> None:
    batch = begin(client, jsonl(*(
        line(f"{number}", max_tokens=300, **ENDLESS) for number in range(4)
    )))  # fmt: skip
    while client.batches.retrieve(batch.id).status != "in_progress":
        time.sleep(0.02)
    time.sleep(0.3)
    answered: list[float] = []

    def ask() -> None:
        client.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            max_tokens=5,
            temperature=0,
        )
        answered.append(time.monotonic())

    chats = [threading.Thread(target=ask) for _ in range(4)]
    for chat in chats:
        chat.start()
    for chat in chats:
        chat.join()
    # Both slots were the batch's, whose answers are sixty times as long.
    now = client.batches.retrieve(batch.id)
    assert (len(answered), now.request_counts.completed) == (4, 0)
    client.batches.cancel(batch.id)
    ended(client, batch)


def test_a_killed_server_goes_on_and_no_line_is_answered_twice(
    arguments: list[str], start_server: Start, tmp_path: Path, tuneserve: Runner
) -> None:
    place = arguments.index("--batch-dir") + 1
    arguments = [*arguments[:place], str(tmp_path / "kept"), *arguments[place + 1 :]]
    names = [f"line {number}" for number in range(12)]
    with start_server(tmp_path / "log", *arguments) as running:
        other = tuneserve("serve", *arguments, "--port", "0")
        assert other.returncode == 2
        assert "another server has its batches there" in other.stderr
        client = client_of(running, "first")
        batch = begin(client, jsonl(*(line(name, max_tokens=4) for name in names)))
        while client.batches.retrieve(batch.id).request_counts.completed < 3:
            time.sleep(0.02)
        running.process.kill()
        running.process.wait()
    (output,) = (tmp_path / "kept" / "batches").glob("*.output.jsonl")
    done = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(done[:-1]) + done[-1][:20])
    with start_server(tmp_path / "log", *arguments) as running:
        client = client_of(running, "first")
        batch = ended(client, batch)
        lines = lines_of(client, batch.output_file_id)
    assert [one["custom_id"] for one in lines[: len(done) - 1]] == [
        json.loads(one)["custom_id"] for one in done[:-1]
    ]
    assert sorted(one["custom_id"] for one in lines) == sorted(names)
    assert (batch.status, batch.request_counts.completed) == ("completed", len(names))
