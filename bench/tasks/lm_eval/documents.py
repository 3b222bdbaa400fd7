"""The data of a task: JSON objects out of local files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.bench.tasks.lm_eval.config import TaskConfig
from tuneserve.bench.tasks.lm_eval.yaml_file import TaskFile
from tuneserve.errors import UsageError
from tuneserve.files import HALF_CHARACTER, is_encodable
from tuneserve.finetune.data.containers import kind_of
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.records import read_objects
from tuneserve.recipe import nearest

WITHOUT_SPLITS = "train"
"""What the split is called where data_files names none."""
_ENDINGS = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True)
class Document:
    """An object of a split by its columns, and its place ('file:line')."""

    values: dict[str, Any]
    where: str


def files_of(config: TaskConfig, file: TaskFile) -> dict[str, list[Path]]:
    """The files of every split. A path counts from the current folder, as it does for lm-eval; if
    nothing is there, from the folder of the task file."""
    named = config.dataset_kwargs.data_files
    splits = named if isinstance(named, dict) else {WITHOUT_SPLITS: named}
    return {
        split: [_found(name, file) for name in ([names] if isinstance(names, str) else names)]
        for split, names in splits.items()
    }


def _found(name: str, file: TaskFile) -> Path:
    path = Path(name).expanduser()
    beside = file.path.parent / path
    return beside if not path.exists() and beside.exists() else path


def read_split(config: TaskConfig, file: TaskFile, split: str) -> list[Document]:
    """The objects of a split. A column that one of them has all have, as in a table: None stands
    where nothing is. Raises UsageError for a split or file that is not there, and naming every line
    that is no object."""
    splits = files_of(config, file)
    where = file.place("dataset_kwargs", "data_files")
    if split not in splits:
        raise UsageError(
            f"data_files has no split '{split}' ({nearest(split, list(splits))})", where=where
        )
    documents: list[Document] = []
    problems: list[str] = []
    for path in splits[split]:
        if not path.is_file():
            raise UsageError(f"no such file: {path}", where=where)
        if kind_of(path) not in _ENDINGS:
            raise UsageError(f"expected a file in JSONL or JSON: {path}", where=where)
        for raw in read_objects(path):
            if isinstance(raw.record, dict) and not is_encodable(raw.record):
                problems.append(f"{raw.place}: {HALF_CHARACTER}")
            elif isinstance(raw.record, dict):
                documents.append(Document(raw.record, raw.place))
            else:
                bad = isinstance(raw.record, BadRecord)
                problems.append(f"{raw.place}: {raw.record if bad else 'no object'}")
    if problems:
        raise UsageError(
            f"{len(problems)} records of split '{split}' can't be read",
            where=where,
            problems=problems,
        )
    if not documents:
        names = ", ".join(map(str, splits[split]))
        raise UsageError(f"there is nothing in {names}", where=where)
    columns = dict.fromkeys(name for document in documents for name in document.values)
    nothing = dict.fromkeys(columns)
    return [Document({**nothing, **each.values}, each.where) for each in documents]
