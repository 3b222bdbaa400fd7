"""Checkpoints of a run: which is the last whole one, and whether it belongs to these settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.files import read_json, write_json
from tuneserve.finetune.memory.search import Decisions
from tuneserve.identity import check_unchanged, hashes_of
from tuneserve.settings import Recipe

FINGERPRINT = "fingerprint.json"
_STRATEGY = "memory_strategy.json"
_REPLACING = "replacing"
_HASHES = "sha256.json"
# The trainer writes the state last, so a checkpoint that has it is whole.
_STATE = "trainer_state.json"
_PARTS = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", _STATE)


def fingerprint(recipe: Recipe, **inputs: Any) -> dict[str, Any]:
    """What a checkpoint depends on: the settings that shape training, and the inputs' hashes."""
    sections = {
        name: getattr(recipe, name).model_dump(mode="json") for name in ("model", "data", "train")
    }
    return {"settings": sections, **inputs}


def last_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint, or None. One that was cut off while it was written is not."""
    whole = [path for path in directory.glob("checkpoint-*") if _is_whole(path)]
    return max(whole, key=step_of, default=None)


def checkpoint_directory(directory: Path, step: int) -> Path:
    """Where the trainer writes its state after a step."""
    return directory / f"checkpoint-{step}"


def checkpoint_at(directory: Path, step: int) -> Path | None:
    path = checkpoint_directory(directory, step)
    return path if _is_whole(path) else None


def remember_hashes(checkpoint: Path) -> None:
    """Write down what the files of a checkpoint hold, for when it is gone on from."""
    if _is_whole(checkpoint):
        paths = [checkpoint / name for name in _PARTS]
        write_json(checkpoint / _HASHES, hashes_of(paths, checkpoint))


def _check_hashes(checkpoint: Path) -> None:
    """Raise UsageError if a file of a checkpoint is not as it was written."""
    record = checkpoint / _HASHES
    if record.is_file():
        check_unchanged(
            read_json(record),
            checkpoint,
            what="this checkpoint",
            hint="Delete its folder to go on from the one before, or pass --force to start afresh.",
        )


def claim(directory: Path, identity: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from, if these are the settings and data it was made with.

    Writes the fingerprint of a fresh run. Raises UsageError if the directory holds checkpoints
    of other settings, or the last one is damaged.
    """
    record = directory / FINGERPRINT
    last = last_checkpoint(directory)
    if last is not None:
        known = read_json(record) if record.is_file() else {}
        if known != identity:
            raise UsageError(
                f"an unfinished training with {_difference(known, identity)} is here",
                where=str(directory),
                hint="Pass --force to start afresh, or choose another run with --run NAME.",
            )
        _check_hashes(last)
        return last
    directory.mkdir(parents=True, exist_ok=True)
    write_json(record, identity)
    return None


def mark_replacing(directory: Path, replacing: bool) -> None:
    """Write down whether this training is to replace a finished one, which stays until then: the
    checkpoints are not those of the adapter beside them."""
    mark = directory / _REPLACING
    mark.touch() if replacing else mark.unlink(missing_ok=True)


def is_replacing(directory: Path) -> bool:
    """Is an unfinished training here that is to replace a finished one?"""
    return (directory / _REPLACING).exists()


def remember_strategy(directory: Path, decisions: Decisions) -> None:
    """Write down how training was fitted into the memory, for when it goes on."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / _STRATEGY, decisions.to_json())


def remembered_strategy(directory: Path) -> Decisions | None:
    """How the training that left these checkpoints was fitted into the memory, if it is known."""
    path = directory / _STRATEGY
    return Decisions.model_validate(read_json(path)) if path.is_file() else None


def _difference(known: dict[str, Any], identity: dict[str, Any]) -> str:
    """The first thing in which two fingerprints differ, in words."""
    for section, values in identity["settings"].items():
        before = known.get("settings", {}).get(section, {})
        for key, value in values.items():
            if before.get(key) != value:
                return f"{section}.{key} = {before.get(key)!r} instead of {value!r}"
    return "another base model or other data"


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(path: Path) -> bool:
    numbered = path.name.rpartition("-")[2].isdigit()
    if not numbered or not all((path / name).is_file() for name in _PARTS):
        return False
    try:
        json.loads((path / _STATE).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
