"""Ids that no two examples share, and that depend on nothing but the files."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuneserve.chat.examples import Example
from tuneserve.files import sha256_text

_HASH_LENGTH = 8


@dataclass
class UniqueIds:
    """The ids that are taken, with the files of their examples.

    Of examples with the same id, the first keeps it. A later one of another file gets that file's
    name in front, one of the same file a hash of its content behind it, and a number if that is
    taken too.
    """

    _files: dict[str, str] = field(default_factory=dict)

    def named(self, example: Example, file: str) -> Example:
        """The example under an id that none had before; the very same if its own is free."""
        name = example.id
        if self._files.get(name, file) != file:
            name = f"{file}:{name}"
        if name in self._files:
            name = f"{name}:{sha256_text(example.content_key)[:_HASH_LENGTH]}"
        free, number = name, 2
        while free in self._files:
            free, number = f"{name}:{number}", number + 1
        self._files[free] = file
        return example if free == example.id else example.named(free)
