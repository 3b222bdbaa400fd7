"""Stages that need no model: what they write, and what of it has to be equal."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.faults import Stage
from tuneserve.bench.measure.journal import Journal
from tuneserve.cli.data import write_examples
from tuneserve.convert.handover.files import HandedFile
from tuneserve.convert.handover.local import to_lm_studio
from tuneserve.errors import TuneserveError
from tuneserve.files import atomic_path, write_json, write_jsonl, write_text
from tuneserve.records import Record
from tuneserve.run import RunDirectory
from tuneserve.serve.api.batches.files import FileStore
from tuneserve.serve.api.batches.store import BatchStore
from tuneserve.serve.api.batches.types import BatchRequest
from tuneserve.serve.api.errors import ApiError


def _made(*files: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in files}


def _nothing(_: Path) -> None:
    pass


ROWS = [{"instruction": f"What is {n}?", "output": str(n)} for n in range(5)]
EXAMPLES = Path("data") / "x.jsonl"


def _old_examples(folder: Path) -> None:
    write_text(folder / EXAMPLES, "old\n")


DATA = Stage(
    "data",
    _old_examples,
    lambda: (write_examples(EXAMPLES, ROWS), None)[1],
    lambda folder: _made(folder / EXAMPLES),
)


def _record() -> None:
    run = RunDirectory(Path("runs") / "a")
    with run.alone(), run.stage("train") as running:
        running.result = Record(loss=0.5)


def _recorded(folder: Path) -> Any:
    record = RunDirectory(folder / "runs" / "a").read()
    return {name: entry.result for name, entry in record.stages.items()}


RUN_RECORD = Stage("run.json", _nothing, _record, _recorded)


def _old_folder(folder: Path) -> None:
    write_text(folder / "data" / "old.jsonl", "old\n")


def _replace_folder() -> None:
    with atomic_path(Path("data")) as made:
        made.mkdir()
        write_jsonl(made / "train.jsonl", ROWS)
        (made / "test.jsonl").write_text("{}\n")


SPLIT = Stage(
    "folder",
    _old_folder,
    _replace_folder,
    lambda folder: _made(*sorted((folder / "data").iterdir())),
)


def _answer(text: str) -> dict[str, Any]:
    return {"text": text, "finish_reason": "stop", "tokens": 1}


def _measure() -> None:
    with Journal(Path("journal.jsonl"), "now") as journal:
        for number in range(4):
            if not journal.has("answer", "base", str(number)):
                journal.add("answer", "base", str(number), _answer("ä" * number))
        journal.finish()


def _measured(folder: Path) -> Any:
    with Journal(folder / "journal.jsonl", "now") as journal:
        rows = {key: row.value for key, row in journal.rows("base")}
        return rows, journal.is_finished


def _half_measured(folder: Path) -> None:
    with Journal(folder / "journal.jsonl", "now") as journal:
        journal.add("answer", "base", "0", _answer(""))


JOURNAL = Stage("journal", _half_measured, _measure, _measured)

OWNER, LINES = "me", [{"custom_id": str(n), "response": {"body": {"n": n}}} for n in range(3)]


def _answer_batch() -> None:
    """What the server does with a batch, and again after a restart."""
    try:
        _go_on(FileStore(Path("kept"), most_bytes=10_000))
    except ApiError as error:  # what the client is told, who then asks again
        raise TuneserveError(str(error)) from error


def _go_on(files: FileStore) -> None:
    store = BatchStore(files)
    uploaded = [file for file in files.of(OWNER) if file["purpose"] == "batch"]
    file = uploaded[0] if uploaded else files.add(OWNER, "in.jsonl", BytesIO(b"{}\n"), 3)
    if not store.of(OWNER):
        request = BatchRequest(
            input_file_id=file["id"], endpoint="/v1/completions", completion_window="24h"
        )
        store.create(OWNER, request)
    for batch in store.unfinished():
        store.begin(batch)
        results = store.results(batch)
        for line in LINES:
            results.append(line, failed=line["custom_id"] == "2")
        results.tell(batch)
        store.finish(batch, results, "completed")
    files.close()


def _answered(folder: Path) -> Any:
    files = FileStore(folder / "kept", most_bytes=10_000)
    (batch,) = BatchStore(files).of(OWNER)
    files.close()
    made = [files.path(batch[key] or "").read_text() for key in ("output_file_id", "error_file_id")]
    stray = sorted(path.suffix for path in (folder / "kept" / "batches").iterdir())
    return batch["status"], batch["request_counts"], made, len(files.of(OWNER)), stray


BATCHES = Stage("batches", _nothing, _answer_batch, _answered)


def _gguf(folder: Path) -> None:
    write_json(folder / "model.gguf", {"weights": 1})


def _export() -> None:
    to_lm_studio(
        HandedFile(Path("model.gguf"), "model.gguf"),
        publisher="me", name="mine", models=Path("studio") / "models",
    )  # fmt: skip


def _exported(folder: Path) -> Any:
    target = folder / "studio" / "models" / "me" / "mine" / "model.gguf"
    return json.loads(target.read_text()), target.samefile(folder / "model.gguf")


EXPORT = Stage("export", _gguf, _export, _exported)
