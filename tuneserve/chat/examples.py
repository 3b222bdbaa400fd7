"""An example: one conversation whose assistant turns are what the model learns to say.

A run keeps its examples in runs/NAME/data/: train.jsonl, eval.jsonl and test.jsonl, and with a
replay set replay.jsonl and general.jsonl; one example a line, as `Example.to_row` makes it.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tuneserve.chat.template import Message, normal_message
from tuneserve.chat.thinking import REASONING
from tuneserve.errors import UsageError
from tuneserve.files import HALF_CHARACTER, is_encodable, sha256_text

CONTINUES = "continues"
"""The key of a text's message that is true where another piece of the same text follows."""
_SEED = 0


@dataclass(frozen=True)
class Example:
    """One conversation; its last message is the assistant's, the reference answer. A text without
    a prompt is that message alone.

    `group` is what results are reported by (a domain, a language), `source` the document the
    example was taken from, `where` its place in the file it came from ('file:line'). `weight` is
    how often it counts in training. `side` is 'train', 'eval' or 'test' where the files say so
    themselves. `shape` is what the record was recognised as ('alpaca').

    Any answer may carry weight 0 in its message: it is context and not learned. The last message
    never does.
    """

    id: str
    messages: tuple[Message, ...]
    group: str | None = None
    source: str | None = None
    where: str = ""
    tools: tuple[dict[str, Any], ...] | None = None
    weight: float = 1.0
    side: str | None = None
    shape: str = field(default="", compare=False)

    @classmethod
    def of_turn(cls, name: str, question: str, answer: str, *, group: str | None = None) -> Self:
        """A question of the user's with its answer."""
        asked = {"role": "user", "content": question}
        return cls(name, (asked, {"role": "assistant", "content": answer}), group)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation up to the reference answer."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The reference answer's text, which an answer that only calls a tool has none of."""
        return self.messages[-1].get("content") or ""

    @property
    def thoughts(self) -> str | None:
        """The thoughts that lead to the reference answer."""
        return self.messages[-1].get(REASONING) or None

    def named(self, name: str) -> Self:
        """The same example under another id."""
        return replace(self, id=name)

    def answered(self, reference: str) -> Self:
        """The same prompt with another reference answer, which has no thoughts."""
        answer = {"role": "assistant", "content": reference}
        return replace(self, messages=(*self.prompt, answer))

    @property
    def prompt_key(self) -> str:
        """The exact text of the tools and of everything before the reference answer; of a text
        without a prompt, the text."""
        return self._key(self.prompt or self.messages)

    @property
    def first_prompt(self) -> tuple[Message, ...]:
        """Everything before the first answer that is learned and that a user's message asks for; of
        a text without a prompt, the text. Conversations of which one is the beginning of the other
        have the same."""
        return self.messages[: next(self._answer_places())] or self.messages

    def prompt_hashes(self) -> Iterator[str]:
        """SHA-256 of the tools and of everything before each answer that is learned and that a
        user's message asks for, the reference answer at least; of a text without a prompt, of the
        text. Conversations with one in common learn to answer the same."""
        if not self.prompt:
            yield sha256_text(self.prompt_key)
            return
        places = set(self._answer_places())
        told = hashlib.sha256(self._tools_text.encode())
        for place, message in enumerate(self.messages):
            if place in places:
                yield told.hexdigest()
            told.update(f"\x1e{_text(message)}".encode())

    def _answer_places(self) -> Iterator[int]:
        """Where the answers are that are learned and asked for; the last message is one of them."""
        asked = False
        for place, message in enumerate(self.prompt):
            if asked and message["role"] == "assistant" and message.get("weight") != 0:
                yield place
            asked = asked or message["role"] == "user"
        yield len(self.prompt)

    @property
    def content_key(self) -> str:
        """The exact text of the whole example, and which answers are learned: equal for
        duplicates. Group, source and id don't count."""
        flags = "".join("0" if m.get("weight") == 0 else "1" for m in self.messages)
        return f"{flags}\x1d{self._key(self.prompt)}\x1d{_text(self.messages[-1])}"

    def _key(self, messages: Sequence[Message]) -> str:
        return self._tools_text + "\x1e".join(map(_text, messages))

    @property
    def _tools_text(self) -> str:
        return json.dumps(self.tools, sort_keys=True) + "\x1e" if self.tools else ""

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
    def from_row(cls, row: Any, where: str = "") -> Self:
        """The example of a line of runs/NAME/data/*.jsonl. Raises ValueError with what is wrong."""
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
        if not isinstance(row.get("id"), str):
            raise ValueError("'id' is missing")
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages:
            raise ValueError("'messages' must hold a prompt and its answer")
        return cls(
            id=row["id"],
            messages=tuple(_checked(messages)),
            group=row.get("group"),
            source=row.get("source"),
            where=where,
            tools=tuple(row["tools"]) if row.get("tools") else None,
        )


def read_split(path: Path, *, limit: int | None = None) -> list[Example]:
    """The examples of a split file of a run, at most the first `limit` of them.

    Raises UsageError if the file can't be read, and one that names every bad line.
    """
    examples: list[Example] = []
    problems: list[str] = []
    seen: set[str] = set()
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if limit is not None and len(examples) >= limit:
                break
            if not line.strip():
                continue
            try:
                example = _parsed(line, f"{path}:{number}")
                if example.id in seen:
                    raise ValueError(f"id '{example.id}' is there twice")
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
                continue
            seen.add(example.id)
            examples.append(example)
    if problems:
        raise UsageError(
            f"{len(problems)} bad line{'s' * (len(problems) != 1)}",
            where=str(path),
            problems=problems,
        )
    return examples


def sample_split(path: Path) -> Iterator[Example]:
    """The examples of a split file in an order that is random, but always the same: files are often
    sorted by source or label. Only what is asked for is read.

    Raises UsageError for a line that is none.
    """
    with _opened(path) as file:
        starts = [(0, 1)]
        starts += [(file.tell(), number) for number, _ in enumerate(iter(file.readline, b""), 2)]
        starts.pop()
        random.Random(_SEED).shuffle(starts)  # noqa: S311 - not for secrets
        for start, number in starts:
            file.seek(start)
            line = file.readline()
            if not line.strip():
                continue
            try:
                yield _parsed(line, f"{path}:{number}")
            except ValueError as error:
                raise UsageError(str(error), where=f"{path}:{number}") from error


def fold(text: str) -> str:
    """Text without what makes no other text of it: case, width, runs of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def fold_messages(messages: Sequence[Message]) -> str:
    """Roles and folded texts of messages, for telling whether prompts are alike."""
    return "\x1e".join(f"{m['role']}\x1f{fold(_spoken(m))}" for m in messages)


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error


def _parsed(line: bytes, where: str) -> Example:
    try:
        row = json.loads(line.decode("utf-8"))
    except RecursionError:
        raise ValueError("not usable JSON") from None
    if b"\\u" in line and not is_encodable(row):
        raise ValueError(HALF_CHARACTER)
    return Example.from_row(row, where)


def _checked(messages: list[Any]) -> Iterator[Message]:
    """The messages in the form that templates are given. Raises ValueError for what is none."""
    for message in messages:
        whole = isinstance(message, dict) and isinstance(message.get("role"), str)
        if not whole or not isinstance(message.get("content"), str | None):
            raise ValueError("every message needs a 'role' and a text as 'content'")
    answer = messages[-1]
    if answer["role"] != "assistant":
        raise ValueError("the last message must be the assistant's answer")
    if not (answer.get("content") or "").strip() and not answer.get("tool_calls"):
        raise ValueError("the answer is empty")
    try:
        yield from map(normal_message, messages)
    except (KeyError, TypeError, AttributeError):
        raise ValueError("a call of a tool needs a 'function' with a 'name'") from None


def _text(message: Mapping[str, Any]) -> str:
    """All that a message says, its content last; equal for equal messages only."""
    others = {
        key: value
        for key, value in message.items()
        if key not in ("role", "content", "weight") and value
    }
    told = json.dumps(others, sort_keys=True) if others else ""
    return f"{message['role']}\x1f{told}\x1f{message.get('content') or ''}"


def _spoken(message: Mapping[str, Any]) -> str:
    # A call of a tool may have no content: what it calls tells it apart.
    parts = (message.get("content"), message.get(REASONING), message.get("tool_calls"))
    return "".join(str(part) for part in parts if part)
