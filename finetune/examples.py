"""An example: one conversation whose assistant turns are what the model learns to say."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One conversation; its last message is the assistant's, the reference answer.

    `group` is what results are reported by (a domain, a language), `source` the document the
    example was taken from, `where` its place in the file it came from ('file:line'). `weight` is
    how often it counts in training.
    """

    id: str
    messages: tuple[Message, ...]
    group: str | None = None
    source: str | None = None
    where: str = ""
    tools: tuple[dict[str, Any], ...] | None = None
    weight: float = 1.0

    def named(self, name: str) -> Example:
        """The same example under another id."""
        return replace(self, id=name)

    @property
    def prompt_key(self) -> str:
        """Normalised text of everything before the reference answer; of a text without a prompt,
        the text."""
        before = self.messages[:-1] or self.messages
        return "\x1e".join(
            f"{message['role']}\x1f{normalised(_text(message))}" for message in before
        )

    @property
    def content_key(self) -> str:
        """Normalised text of the whole conversation: equal for duplicates."""
        return f"{self.prompt_key}\x1d{normalised(_text(self.messages[-1]))}"

    def to_row(self) -> dict[str, Any]:
        """The example as a line of runs/NAME/data/*.jsonl."""
        row = {
            "id": self.id,
            "group": self.group,
            "source": self.source,
            "messages": [dict(message) for message in self.messages],
        }
        return {**row, "tools": list(self.tools)} if self.tools else row

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str = "") -> Example:
        """The example of a line of runs/NAME/data/*.jsonl."""
        return cls(
            id=row["id"],
            messages=tuple(row["messages"]),
            group=row["group"],
            source=row["source"],
            where=where,
            tools=tuple(row["tools"]) if row.get("tools") else None,
        )


def normalised(text: str) -> str:
    """Text with what does not make another example of it removed: case, width, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest(text: str) -> str:
    """SHA-256 of a text in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _text(message: Message) -> str:
    # A call of a tool may have no content: what it calls tells it apart.
    parts = (message.get("content"), message.get("reasoning_content"), message.get("tool_calls"))
    return "".join(str(part) for part in parts if part)
