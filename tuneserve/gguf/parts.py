"""A GGUF in several files, as llama.cpp's gguf-split writes it: NAME-00001-of-00003.gguf and so on,
each with a header of its own; the first has the model's metadata."""

from __future__ import annotations

import re
from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile, shown

COUNT, NUMBER, TENSORS = "split.count", "split.no", "split.tensors.count"
_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def part_paths(path: Path) -> list[Path]:
    """The files that belong together, in order: by name, if `path` is named as a part is."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    return [
        path.with_name(f"{match['name']}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    ]


def open_whole(path: Path) -> GGUFFile:
    """The model of a GGUF, whichever of its parts `path` is: the metadata of the first, the tensors
    of all.

    Raises UsageError if parts are missing, or don't belong together.
    """
    paths = part_paths(path)
    missing = [str(part) for part in paths if not part.is_file()]
    if missing and len(paths) > 1:
        raise UsageError(
            f"{len(missing)} of the {len(paths)} parts of this GGUF are missing",
            where=str(path),
            problems=missing,
            hint="All parts have to lie side by side, under the names they were made with.",
        )
    first, *rest = map(GGUFFile, paths)
    count = first.get(COUNT, 0) or 1
    if count != len(paths):
        raise UsageError(
            f"this is one of {shown(count)} parts of a GGUF",
            where=str(path),
            hint="All have to lie side by side, named NAME-00001-of-00002.gguf and so on.",
        )
    for number, part in enumerate(rest, start=1):
        if part.get(COUNT) != count or part.get(NUMBER) != number:
            raise UsageError(
                f"is not part {number + 1} of {count} of this GGUF", where=str(part.path)
            )
        if twice := first.tensors.keys() & part.tensors.keys():
            raise UsageError(
                f"tensor '{min(twice)}' is in an earlier part already", where=str(part.path)
            )
        first.tensors |= part.tensors
    expected = first.get(TENSORS, len(first.tensors))
    if expected != len(first.tensors):
        raise UsageError(
            f"this GGUF says it has {shown(expected)} tensors, its parts have {len(first.tensors)}",
            where=str(path),
        )
    return first
