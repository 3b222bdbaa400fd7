"""A record of which is known what was read of it: the rest is refused or noted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tuneserve.finetune.data.turns import PICTURES, role_of
from tuneserve.finetune.data.values import BadRecord, Findings, from_json, given, listed

_PREFERRED = ("chosen", "chosen_response", "chosen_messages")
_PREFERENCES = (
    "rejected_response", "rejected_messages", "kto_tag", "preferred_output",
    "non_preferred_output",
)  # fmt: skip
_TOKENS = ("input_ids", "token_ids")
_PROVENANCE = {
    "score", "scores", "rating", "url", "uuid", "timestamp", "date", "created_at", "model",
    "category", "categories", "topic", "domain", "lang", "language", "difficulty", "task", "tags",
    "dataset", "data_source", "title", "author", "license", "token_count", "num_turns", "idx",
    "index", "metadata", "meta", "prompt_id", "conversation_id", "parallel_tool_calls",
    "tool_choice",
}  # fmt: skip
_GROUPS = {"category", "topic", "domain", "lang", "language", "difficulty", "task"}
_ANSWERS = {
    "messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "output",
    "completion", "response", "answer", "answers", "solution", "target", "targets", "assistant",
}  # fmt: skip
_SHOWN = 20
"""Unused keys that are named of one record."""


class Row:
    """The keys of a record. None counts as absent. A key in another case is found where the record
    has none in lower case."""

    def __init__(self, record: Mapping[str, Any], known: Collection[str]) -> None:
        self._values: dict[str, Any] = {}
        self._empty = set[str]()
        for key, value in record.items():
            plain = key.strip().lower() if isinstance(key, str) else str(key)
            name = plain if plain in known and plain not in record else key
            if value is not None:
                self._values[key if name in self._values else name] = value
            else:
                self._empty.add(name)
        self._used: set[str] = {"id", "group", "source"}

    def has(self, key: str) -> bool:
        """Is the key there, with whatever value?"""
        return key in self._values

    def is_empty(self, key: str) -> bool:
        """Is the key there without a value, as an empty cell of a table is?"""
        return key in self._empty and key not in self._values

    def says(self, key: str) -> bool:
        """Is the key there with a value that is not empty?"""
        return given(self._values.get(key))

    def peek(self, key: str) -> Any:
        """The value, which is read elsewhere; None if there is none."""
        return self._values.get(key)

    def take(self, key: str) -> Any:
        """The value, which is read now; None if there is none."""
        self._used.add(key)
        return self._values.get(key)

    def rest(self) -> dict[str, Any]:
        """What was not read, as far as it says anything."""
        return {k: v for k, v in self._values.items() if k not in self._used and given(v)}

    def names(self) -> list[str]:
        """The keys that are there."""
        return list(self._values)


def refuse_other_tasks(row: Row) -> None:
    """Raise BadRecord for records of another kind of training: preferences, classes, pictures,
    token ids."""
    for key in _PREFERRED:
        if row.says(key):
            raise BadRecord(
                f"{key!r} belongs to preference data (DPO), which is not trained here; to learn "
                f"the preferred answers alone: {_preferred_as(row, key)}"
            )
    for key in _PREFERENCES:
        if row.says(key):
            raise BadRecord(
                f"{key!r} belongs to preference data (DPO, KTO), which is not trained here: remove "
                "the key to learn the answers, or leave the record out"
            )
    for key in PICTURES:
        if row.says(key):
            raise BadRecord(f"{key!r}: pictures and sounds can't be trained, only text")
    for key in _TOKENS:
        if row.says(key):
            raise BadRecord(f"{key!r}: token ids can't be trained, the base has its own: give text")
    if row.says("segments"):
        raise BadRecord("'segments' can't be trained: give a prompt and an answer, or messages")
    _refuse_label(row)


def note_unused(row: Row, texts: list[str], findings: Findings) -> None:
    """Note the keys that were not read. One whose text is among the messages' `texts`, or that
    repeats all of them, only informs."""
    rest = row.rest()
    if "history" in rest:
        raise BadRecord("'history' beside a list of messages: put its turns into the list")
    for key, value in list(rest.items())[:_SHOWN]:
        if key in _PROVENANCE:
            hint = f" (--fields group={key} reports by it)" if key in _GROUPS else ""
            findings.add(f"key {key!r} is not used{hint}", odd=False)
        elif isinstance(value, str) and _repeats(value.strip(), texts):
            findings.add(f"key {key!r:.60} repeats what is trained", odd=False)
        else:
            findings.add(f"key {key!r:.60} is not used")
    if len(rest) > _SHOWN:
        findings.add(f"more than {_SHOWN} keys of a record are not used")


def _repeats(value: str, texts: list[str]) -> bool:
    return value in [text.strip() for text in texts] or all(text in value for text in texts)


def _preferred_as(row: Row, key: str) -> str:
    value = from_json(row.peek(key))
    if isinstance(value, dict) or row.says("messages") or row.says("conversations"):
        return "put each at the end of its messages"
    ours = "output"
    if isinstance(value, list):
        first = value[0] if value and isinstance(value[0], dict) else {}
        speaker = role_of(first.get("role") or first.get("from"))
        ours = "completion" if speaker == "assistant" else "messages"
    return f"--fields {ours}={key}"


def _refuse_label(row: Row) -> None:
    for key in ("label", "labels"):
        if not row.says(key):
            continue
        value = row.peek(key)
        answers = [name for name in row.names() if name in _ANSWERS]
        if not answers:
            others = [name for name in row.names() if name not in (key, "id")]
            prompt = next((n for n in ("text", "sentence", "content") if n in others), "TEXT")
            raise BadRecord(
                f"{key!r} names a class and there is no answer to learn: write the answer out, or "
                f"--fields instruction={prompt},output={key}"
            )
        if str(value).strip().lower() in ("true", "false", "0", "1", "0.0", "1.0"):
            raise BadRecord(
                f"{key!r} beside {listed(answers)}: data that says which answers are wanted (KTO) "
                "is not trained here; keep the wanted records and remove the key"
            )
