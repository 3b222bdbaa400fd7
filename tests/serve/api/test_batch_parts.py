"""Parts of the batch API by themselves: uploads, finished lines, batches that end early."""

from __future__ import annotations

import asyncio
import codecs
import errno
import json
import os
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from tuneserve.errors import UsageError
from tuneserve.serve.api.batches.files import FileStore, write_state
from tuneserve.serve.api.batches.lines import read_body, read_places
from tuneserve.serve.api.batches.runner import BatchRunner
from tuneserve.serve.api.batches.store import BatchStore, Results, StoredBatch
from tuneserve.serve.api.batches.types import ENDED, BatchRequest
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.strict_json import JsonLimits

URL = "/v1/completions"
LIMITS = JsonLimits(depth=100, containers=50_000, values=2_000_000)


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "kept", most_bytes=10_000)


def done(custom_id: str) -> bytes:
    return json.dumps({"custom_id": custom_id}).encode() + b"\n"


@pytest.mark.parametrize("damage", [b"{", b"{}\n", b"\0\0\n", done("x")[:-1], b"[1]\n"])
def test_finished_lines_are_cut_where_they_are_damaged(
    tmp_path: Path, files: FileStore, damage: bytes
) -> None:
    output = tmp_path / "output"
    output.write_bytes(done("a") + done("b") + damage + done("c"))
    results = Results(output, tmp_path / "errors", files)
    assert results.done == {"a", "b"}
    results.append({"custom_id": "d"}, failed=False)
    results.append({"custom_id": "d"}, failed=True)
    assert output.read_bytes() == done("a") + done("b") + done("d")
    assert (results.completed, results.failed) == (3, 0)


LINE: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": URL, "body": {"a": 1}}
GOOD = json.dumps(LINE).encode()


def with_body(body: bytes) -> bytes:
    """A line whose body is this text."""
    return GOOD.replace(b'{"a": 1}', body)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (with_body(b"1" * 5000), "It has a whole number of more than 4300 digits."),
        (with_body(b"-" + b"1" * 5000), "It has a whole number of more than 4300 digits."),
        (with_body(b'{"a": [1e999]}'), "It has a number that is too large: 1e999."),
        (with_body(b'{"a": NaN}'), "It is no JSON: NaN is no number there."),
        (with_body(b'{"a": -Infinity}'), "It is no JSON: -Infinity is no number there."),
        (with_body(b"[" * 90_000), "It has more than 50001 lists and objects."),
        (with_body(b'{"a": [' + b"[]," * 50_000 + b"[]]}"), "It has more than 50001 lists"),
        (with_body(b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}"), "It is nested more than 101"),
        (with_body(b'{"a": "\xe4"}'), "It is not UTF-8 (byte"),
        (GOOD.decode().encode("utf-16"), "This is UTF-16 or UTF-32; it must be UTF-8."),
        (GOOD.decode().encode("utf-32-le"), "This is UTF-16 or UTF-32"),
        (GOOD + b"\r" + GOOD, "It is no JSON: Extra data"),
        (b"[1]", "This line is no JSON object."),
        (b'"a"', "This line is no JSON object."),
        (GOOD.replace(b'"a",', rb'"\ud83d",', 1), "custom_id: "),
        (GOOD.replace(b'"a",', b"1,", 1), "custom_id: "),
        (GOOD.replace(URL.encode(), rb"\ud83d"), r"Its url is '\ud83d'"),
    ],
)
def test_of_a_line_that_is_wrong_the_reason_is_told(
    tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(GOOD.replace(b'"a",', b'"first",', 1) + b"\n" + content + b"\n")
    places, problems = read_places(path, URL, longest=200_000, limits=LIMITS)
    assert [place.custom_id for place in places] == ["first"]
    assert problems[0]["message"].startswith(told)
    assert problems[0]["line"] == 2
    assert problems[0]["message"].isprintable()


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + GOOD + b"\n",
        codecs.BOM_UTF8 + b"\r\n" + GOOD + b"\r\n\r\n",
        b"\n \t \n" + GOOD,
        b"\n" + codecs.BOM_UTF8 + GOOD + b"\n",
    ],
)
def test_marks_and_blank_lines_say_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    (place,), problems = read_places(path, URL, longest=1000, limits=LIMITS)
    assert problems == []
    assert read_body(path, place) == {"a": 1}


def test_what_a_body_may_hold_is_asked_as_it_is(files: FileStore) -> None:
    bodies: list[dict[str, Any]] = [{"a": "\ud83d"}, {"a": 10**4000}, {"a": [1.5e300, "\0"]}]
    batch, lines = work(files, bodies, lambda _: None)
    assert batch["status"] == "completed"
    answers = {line["custom_id"]: line["response"]["body"] for line in lines}
    assert [answers[str(number)] for number in range(3)] == bodies


def test_the_tokens_of_all_apis_are_added_up(files: FileStore) -> None:
    usages = [
        {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13,
         "prompt_tokens_details": {"cached_tokens": 2},
         "completion_tokens_details": {"reasoning_tokens": 1}},
        {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 2},
         "output_tokens_details": {"reasoning_tokens": 1}},
        {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 4,
         "output_tokens_details": {"thinking_tokens": 1}},
        {"prompt_tokens": 9, "total_tokens": 9},
    ]  # fmt: skip
    bodies = [{"usage": usage, "model": "one"} for usage in usages]
    batch, _ = work(files, bodies, lambda _: None)
    assert batch["model"] == "one"
    assert batch["usage"] == {
        "input_tokens": 36, "input_tokens_details": {"cached_tokens": 6},
        "output_tokens": 12, "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 48,
    }  # fmt: skip
    assert BatchStore(files).by_status()["completed"] == 1


def test_a_batch_of_a_former_release_has_no_usage(files: FileStore) -> None:
    batch, _ = work(files, [{"a": 1}], lambda _: None)
    path = files.directory / "batches" / f"{batch['id']}.json"
    former = json.loads(path.read_text())
    del former["usage"], former["model"]
    path.write_text(json.dumps(former))
    assert BatchStore(files).of("me")[0]["usage"] is None


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers a request with itself, or never."""
    body = json.loads((await receive())["body"])
    if body.get("wait"):
        await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def work(
    files: FileStore, bodies: list[dict[str, Any]], change: Callable[[StoredBatch], None]
) -> tuple[StoredBatch, list[dict[str, Any]]]:
    """A batch when it has ended, and the lines of both its files."""
    content = b"".join(
        json.dumps({"custom_id": str(number), "method": "POST", "url": URL, "body": body}).encode()
        + b"\n"
        for number, body in enumerate(bodies)
    )
    file = files.add("me", "in.jsonl", BytesIO(content), len(content))
    store = BatchStore(files)
    request = BatchRequest(input_file_id=file["id"], endpoint=URL, completion_window="24h")
    batch = store.create("me", request)
    change(batch)

    async def run() -> None:
        runner = BatchRunner(store, echo, places=2, longest=5000, limits=LIMITS)
        async with runner.running():
            async with asyncio.timeout(20):
                while batch["status"] not in ENDED:
                    await asyncio.sleep(0.01)

    asyncio.run(run())
    ids = [batch["output_file_id"], batch["error_file_id"]]
    texts = [files.path(file_id).read_text() for file_id in ids if file_id]
    return batch, [json.loads(line) for text in texts for line in text.splitlines()]


def test_a_batch_expires_and_names_the_lines_that_were_not_done(files: FileStore) -> None:
    def soon(batch: StoredBatch) -> None:
        batch["expires_at"] = batch["created_at"] + 2

    batch, lines = work(files, [{"a": 1}, {"wait": True}, {"wait": True}, {"a": 2}], soon)
    assert batch["status"] == "expired"
    assert [line["custom_id"] for line in lines] == ["0", "1", "2", "3"]
    assert lines[0]["response"]["body"] == {"a": 1}
    assert {line["error"]["code"] for line in lines[1:]} == {"batch_expired"}


def test_a_batch_without_room_for_its_answers_fails_and_keeps_what_is_done(
    files: FileStore,
) -> None:
    batch, lines = work(files, [{"a": "x" * 900} for _ in range(5)], lambda _: None)
    assert batch["status"] == "failed"
    assert batch["errors"] is not None
    assert batch["errors"]["data"][0]["code"] == "storage_full"
    assert 1 <= len(lines) == batch["request_counts"]["completed"] < 5


def test_a_batch_waits_while_the_disk_is_full(
    files: FileStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = 3

    def full(path: Path, value: Mapping[str, Any]) -> None:
        nonlocal left
        if value["status"] in ("finalizing", "completed") and left:
            left -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_state(path, value)

    monkeypatch.setattr("tuneserve.serve.api.batches.store.write_state", full)
    monkeypatch.setattr("tuneserve.serve.api.batches.runner.DISK_WAIT", 0.01)
    batch, lines = work(files, [{"a": 1}, {"a": 2}], lambda _: None)
    assert (batch["status"], left) == ("completed", 0)
    assert {line["custom_id"] for line in lines} == {"0", "1"}
    assert capsys.readouterr().err.count("nothing can be written: No space left") == 1


@pytest.mark.parametrize("content", ["{torn", "[]", "{}"])
def test_a_damaged_state_is_left_aside_with_its_file(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FileStore(tmp_path, most_bytes=100)
    file = store.add("me", "x", BytesIO(b"abc"), 3)
    BatchStore(store)
    (tmp_path / "files" / f"{file['id']}.json").write_text(content)
    (tmp_path / "batches" / f"batch_{'0' * 24}.json").write_text(content)
    store.close()
    again = FileStore(tmp_path, most_bytes=100)
    assert BatchStore(again).unfinished() == []
    assert again.of("me") == []
    assert again.path(file["id"]).read_bytes() == b"abc"
    assert capsys.readouterr().err.count("left aside") == 2


def test_a_finished_batch_is_finished_again_after_a_kill(files: FileStore) -> None:
    batch, lines = work(files, [{"a": 1}, {"a": 2}], lambda _: None)
    again = FileStore.__new__(FileStore)
    again.__dict__.update(files.__dict__)
    store = BatchStore(again)
    kept = store.get("me", batch["id"])
    assert kept["status"] == "completed"
    # As it was before the last state was written: lines and files are both there.
    kept["status"] = "finalizing"
    assert kept["output_file_id"] is not None
    output = files.path(kept["output_file_id"])
    (files.directory / "batches" / f"{kept['id']}.output.jsonl").write_bytes(output.read_bytes())
    before = output.read_bytes()
    store.finish(kept, store.results(kept), "completed")
    assert output.read_bytes() == before
    assert len(lines) == 2


def test_a_directory_has_one_server_and_forgets_half_made_files(tmp_path: Path) -> None:
    store = FileStore(tmp_path, most_bytes=100)
    with pytest.raises(UsageError, match="another server"):
        FileStore(tmp_path, most_bytes=100)
    file = store.add("me", "x", BytesIO(b"abc"), 3)
    with pytest.raises(ApiError, match="may take"):
        store.check_room(98)
    half = tmp_path / "files" / f"file-{'0' * 24}.jsonl"
    half.write_bytes(b"half")
    store.close()
    again = FileStore(tmp_path, most_bytes=100)
    assert not half.exists()
    assert again.get("me", file["id"]) == file
    with pytest.raises(ApiError):
        again.get("you", file["id"])
