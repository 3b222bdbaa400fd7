"""LLaMA-Factory's dataset_info.json: which files hold data sets, and how their records are laid
out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.finetune.data.containers import read_data
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.keys import side_of_name
from tuneserve.finetune.data.notes import Notes

DATASET_INFO = "dataset_info.json"
_REMOTE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
# What its columns are called there, with the keys that they have here and their names by default.
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_COMMON = {
    "system": "system", "tools": "tools", "history": "history", "images": "images",
    "videos": "videos", "audios": "audios", "kto_tag": "kto_tag", "chosen": "chosen",
    "rejected": "rejected",
}  # fmt: skip
_TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
    "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip
_KEY_TAGS = ("role_tag", "content_tag")
_OTHER_SHAPES = {
    "alpaca": ("messages", "conversations", "conversation"),
    "sharegpt": ("messages", "instruction", "output", "prompt", "completion", "text"),
}


@dataclass(frozen=True)
class Layout:
    """One entry: its file, the shape of the records, the names of keys and of roles in them, and
    how many of the records count (None: all). `refused` says why it can't be read here."""

    file_name: str
    shape: str
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    side: str | None = None
    limit: int | None = None
    refused: str = ""

    def record(self, record: Any, notes: Notes, place: str) -> Any:
        """A record with the keys and roles that are known here, or a BadRecord."""
        if not isinstance(record, dict):
            return record
        names = _COMMON | (_ALPACA if self.shape == "alpaca" else {"messages": "conversations"})
        renamed = {self.columns[name]: ours for name, ours in names.items() if name in self.columns}
        found: dict[str, Any] = {}
        for key, value in record.items():
            if key in _OTHER_SHAPES[self.shape] and key not in renamed:
                notes.add(f"the key {key!r} is not read: {DATASET_INFO} names others", place)
            elif key not in renamed:
                found[key] = value
        found |= {ours: record[theirs] for theirs, ours in renamed.items() if theirs in record}
        if self.shape == "sharegpt" and isinstance(found.get("conversations"), list):
            try:
                found["conversations"] = [self._turn(turn) for turn in found["conversations"]]
            except BadRecord as problem:
                return problem
        return found

    def _turn(self, turn: Any) -> Any:
        tags = _TAGS | dict(self.tags)
        role = turn.get(tags["role_tag"]) if isinstance(turn, dict) else None
        if role is None:
            return turn
        ours = {tags[name]: _TAGS[name] for name in _TAGS if name not in _KEY_TAGS}
        if not isinstance(role, str) or role not in ours:
            known = ", ".join(ours)
            raise BadRecord(f"{DATASET_INFO} names no role {role!r:.40}: known are {known}")
        keys = [tags[name] for name in _KEY_TAGS]
        rest = {key: value for key, value in turn.items() if key not in keys}
        return rest | {"from": ours[role], "value": turn.get(tags["content_tag"])}


def read_dataset_info(path: Path) -> dict[str, Layout]:
    """The data sets by name; empty if the file is something else (datasets gives the same name to a
    description of its own).

    Raises UsageError for an entry that can't be understood.
    """
    try:
        content = json.loads(read_data(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not usable JSON: {str(error)[:80]}", where=str(path)) from error
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    entries = content if isinstance(content, dict) else {}
    marks = ("file_name", *_REMOTE)
    if not any(isinstance(e, dict) and any(m in e for m in marks) for e in entries.values()):
        return {}
    return {name: _layout(entry, f"{path}: {name!r}") for name, entry in entries.items()}


def _layout(entry: Any, where: str) -> Layout:
    if not isinstance(entry, dict):
        raise UsageError("must be an object", where=where)
    name, limit = entry.get("file_name", ""), entry.get("num_samples")
    if not isinstance(name, str) or not isinstance(limit, int | None):
        raise UsageError("'file_name' must be text, 'num_samples' a number", where=where)
    shape, tags = entry.get("formatting", "alpaca"), _texts(entry, "tags", where)
    if shape == "openai":
        shape, tags = "sharegpt", _OPENAI_TAGS | tags
    refused = ""
    if remote := next((key for key in _REMOTE if entry.get(key) and not name), None):
        refused = f"it lies elsewhere ({remote})"
    elif entry.get("ranking"):
        refused = "it ranks answers (ranking), which is not trained here"
    elif shape not in _OTHER_SHAPES:
        refused = f"its formatting {shape!r:.40} is not known (alpaca, sharegpt, openai)"
    side = side_of_name(str(entry.get("split") or ""))
    return Layout(name, shape, _texts(entry, "columns", where), tags, side, limit, refused)


def _texts(entry: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = entry.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(v, str | None) for v in value.values()):
        raise UsageError(f"{key!r} must be an object of names", where=where)
    return {name: text for name, text in value.items() if text}


_OPENAI_TAGS = {
    "role_tag": "role", "content_tag": "content", "user_tag": "user",
    "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "function_call",
}  # fmt: skip
