"""What of a run strangers get: without the names of files that are left out, and of folders on this
machine, which read as repositories."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace

from tuneserve.console import say
from tuneserve.convert.handover.files import HandedFile
from tuneserve.files import read_json
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.run import RunDirectory

ADAPTER_CONFIG = "adapter/adapter_config.json"
CARD = "README.md"
_BASE = "base_model_name_or_path"
_ROW = re.compile(r"^\|[^|\n]*\| `([^`\n]+\.gguf)` \|.*\n", re.MULTILINE)
"""A file in the card's table (convert/model_card.py)."""


def published(run: RunDirectory, files: Sequence[HandedFile]) -> list[HandedFile]:
    """The files as they are sent. The adapter's configuration names the base's repository, or no
    base if it was a folder or a file; the card lists what is sent. One that was edited stays as it
    is, and a file that it names besides is told."""
    names = {file.name for file in files}
    found = []
    for file in files:
        if file.name == ADAPTER_CONFIG:
            file = _without_folder(run, file)
        elif file.name == CARD:
            file = _without_rows(file, names)
        found.append(file)
    return found


def _without_folder(run: RunDirectory, file: HandedFile) -> HandedFile:
    config = read_json(file.path)
    base = run.require_stage("train", TrainOutput).base.repository
    if config.get(_BASE) == base:
        return file
    content = f"{json.dumps({**config, _BASE: base}, indent=2)}\n".encode()
    return replace(file, content=content, sha256=hashlib.sha256(content).hexdigest())


def _without_rows(card: HandedFile, names: set[str]) -> HandedFile:
    text = card.path.read_text("utf-8")
    absent = [row[1] for row in _ROW.finditer(text) if row[1] not in names]
    if card.edited and absent:
        say(f"note: {CARD} names what is not sent: {', '.join(absent)}")
    if card.edited or not absent:
        return card
    kept = _ROW.sub(lambda row: row[0] if row[1] in names else "", text)
    return replace(card, content=kept.encode())
