"""The data step: read the examples, split them, write the run's own copy."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.examples import Example
from finetune.reading import Read, read_examples
from finetune.split import SPLITS, Split, repeated, split_examples
from tuneserve.errors import UsageError
from tuneserve.files import atomic_path, sha256_file, write_jsonl
from tuneserve.run import RunDirectory
from tuneserve.settings import DataSettings


@dataclass
class Prepared:
    """The split examples, and what was found in the files they came from."""

    split: Split
    shapes: Counter[str]
    skipped: int


def prepare_examples(settings: DataSettings) -> Prepared:
    """Read all files and split their examples. Raises UsageError for what can't be used, and if
    a split that is wanted comes out empty."""
    fields = _field_names(settings)
    reads: list[Read] = []
    for path, weight in data_files(settings):
        read = read_examples(
            path, system=settings.system, fields=fields, skip_bad=settings.skip_bad
        )
        read.examples = [replace(example, weight=weight) for example in read.examples]
        reads.append(read)
    examples = [example for read in reads for example in read.examples]
    split = split_examples(
        examples, eval_fraction=settings.eval_fraction, test_fraction=settings.test_fraction
    )
    split.train = repeated(split.train)
    _check_none_is_empty(split, settings, examples)
    shapes: Counter[str] = sum((read.shapes for read in reads), Counter())
    return Prepared(split, shapes, sum(len(read.problems) for read in reads))


def data_files(settings: DataSettings) -> list[tuple[Path, float]]:
    """The files (or folders) of examples with their weights."""
    files = [(settings.file, 1.0)]
    for entry in settings.more:
        path, separator, weight = entry.rpartition("*")
        try:
            files.append((Path(path), float(weight)) if separator else (Path(entry), 1.0))
        except ValueError:
            raise UsageError(
                f"{entry!r}: the weight after '*' must be a number", where="data.more"
            ) from None
    return files


def data_hash(settings: DataSettings) -> str:
    """SHA-256 over the content of all data files, in hex."""
    whole = hashlib.sha256()
    for path, _ in data_files(settings):
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        for file in files:
            whole.update(bytes.fromhex(sha256_file(file)))
    return whole.hexdigest()


def write_split(split: Split, run: RunDirectory) -> None:
    """Write runs/NAME/data/{train,eval,test}.jsonl, all three or none."""
    with atomic_path(run.data) as directory:
        directory.mkdir()
        for name in SPLITS:
            rows = [example.to_row() for example in split.part(name)]
            write_jsonl(directory / f"{name}.jsonl", rows)


def describe(prepared: Prepared, settings: DataSettings) -> dict[str, Any]:
    """What run.json remembers of the data: counts, shapes, groups, and the files' hash."""
    split = prepared.split
    return {
        "files": [str(path) for path, _ in data_files(settings)],
        "sha256": data_hash(settings),
        "shapes": dict(prepared.shapes),
        "skipped": prepared.skipped,
        "duplicates_removed": split.duplicates,
        "straddling_removed": split.straddling,
        "groups": split.groups(),
    }


def _field_names(settings: DataSettings) -> Mapping[str, str]:
    pairs = [entry.partition("=") for entry in settings.fields]
    for ours, _, theirs in pairs:
        if not ours or not theirs:
            raise UsageError("write each as ours=theirs, e.g. output=answer", where="data.fields")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _check_none_is_empty(split: Split, settings: DataSettings, examples: list[Example]) -> None:
    wanted = {"train": 1.0, "eval": settings.eval_fraction, "test": settings.test_fraction}
    empty = [name for name in SPLITS if wanted[name] > 0 and not split.part(name)]
    if empty:
        raise UsageError(
            f"{len(examples)} examples leave none for '{empty[0]}'",
            where=str(settings.file),
            hint="Add examples, or change [data] eval_fraction and test_fraction.",
        )
