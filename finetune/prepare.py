"""The data step: read the examples, split them, write the run's own copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.reading import read_examples
from finetune.split import SPLITS, Split, split_examples
from tuneserve.errors import UsageError
from tuneserve.files import atomic_path, sha256_file, write_jsonl
from tuneserve.run import RunDirectory
from tuneserve.settings import DataSettings


def load_split(settings: DataSettings) -> Split:
    """Read and split the examples. Raises UsageError if a needed split comes out empty."""
    examples = read_examples(settings.file, system=settings.system)
    split = split_examples(
        examples, eval_fraction=settings.eval_fraction, test_fraction=settings.test_fraction
    )
    wanted = {"train": 1.0, "eval": settings.eval_fraction, "test": settings.test_fraction}
    empty = [name for name in SPLITS if wanted[name] > 0 and not split.part(name)]
    if empty:
        raise UsageError(
            f"{len(examples)} examples leave none for '{empty[0]}'",
            where=str(settings.file),
            hint="Add examples, or change [data] eval_fraction and test_fraction.",
        )
    return split


def write_split(split: Split, run: RunDirectory) -> None:
    """Write runs/NAME/data/{train,eval,test}.jsonl, all three or none."""
    with atomic_path(run.data) as directory:
        directory.mkdir()
        for name in SPLITS:
            rows = [example.to_row() for example in split.part(name)]
            write_jsonl(directory / f"{name}.jsonl", rows)


def describe(split: Split, file: Path) -> dict[str, Any]:
    """What run.json remembers of the data: counts, groups, and the file's hash."""
    return {
        "file": str(file),
        "sha256": sha256_file(file),
        "duplicates_removed": split.duplicates,
        "straddling_removed": split.straddling,
        "groups": split.groups(),
    }
