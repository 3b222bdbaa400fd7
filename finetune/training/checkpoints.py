"""Checkpoints of a run: which is the last whole one, and whether it belongs to these settings."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from tuneserve.changes import with_defaults
from tuneserve.console import say
from tuneserve.durable import make_folder, sync_folder, sync_tree
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import (
    check_replaceable,
    is_leftover,
    is_made,
    numbered,
    read_json,
    remove,
    write_json,
)
from tuneserve.finetune.memory.search import Decisions
from tuneserve.finetune.training.trained_files import ADAPTER_FILES
from tuneserve.identity import changed_files, hashes_of
from tuneserve.records import parse
from tuneserve.safetensors import stored_tensors
from tuneserve.settings import Recipe

FINGERPRINT = "fingerprint.json"
_STRATEGY = "memory_strategy.json"
_REPLACING = "replacing"
_HASHES = "sha256.json"
# The trainer writes the state last, so that a kill leaves none in a checkpoint that is not whole.
_STATE = "trainer_state.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLED = ("optimizer.pt", "scheduler.pt")
_PARTS = (_WEIGHTS, *_PICKLED, _STATE)
# What else a training that goes on reads, where it is there.
_MORE = ("adapter_config.json", "rng_state.pth")
OWN_FILES = (FINGERPRINT, _STRATEGY, _REPLACING, "README.md")
# As the trainer writes the step: checkpoint-06 is somebody's.
_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
# What the trainer and `seal` write into a checkpoint.
_CHECKPOINT_FILES = (
    *ADAPTER_FILES, "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth",
    *numbered("rng_state_", ".pth", digits=4), _STATE, _HASHES,
)  # fmt: skip
_AFRESH = "Pass --force to start afresh, or choose another run with --run NAME."


def fingerprint(recipe: Recipe, **inputs: Any) -> dict[str, Any]:
    """What a checkpoint depends on: the settings that shape training, and the inputs' hashes. On
    how many GPUs it goes on, and what is recorded at its end, is free."""
    return {"settings": _that_shape(recipe.model_dump(mode="json")), **inputs}


def _that_shape(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings that shape a training."""
    free = ("gpus", "record_eval_losses")
    train = {name: value for name, value in tables["train"].items() if name not in free}
    return {"model": tables["model"], "data": tables["data"], "train": train}


def last_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint, or None. One that was cut off while it was written is not, nor
    one whose files are not as they were written; of that it is said what is wrong."""
    for path in sorted(_numbered(directory), key=step_of, reverse=True):
        damage = damage_of(path) if _has_all(path) else ["not written to its end"]
        if not damage:
            return path
        say(f"note: {path} is left out: {'; '.join(damage)}")
    return None


def has_checkpoints(directory: Path) -> bool:
    """Is a training here that can go on? The files are not read."""
    return any(map(_has_all, _numbered(directory)))


def is_checkpoint(path: Path) -> bool:
    """Is this a folder that the trainer wrote, or began: named as it names them, and with nothing
    in it but a checkpoint's files, of which one is the trainer's own?"""
    if not _is_named(path) or foreign_in_checkpoint(path):
        return False
    return not any(path.iterdir()) or any((path / name).exists() for name in _PARTS)


def foreign_in_checkpoint(path: Path) -> list[Path]:
    """What lies in a folder that is named as a checkpoint and is none of its files. Such a one is
    somebody's: it stays whole. Nothing for a folder of another name."""
    if not _is_named(path):
        return []
    return sorted(
        inner
        for inner in path.iterdir()
        if not (is_made(inner, _CHECKPOINT_FILES) or is_leftover(inner))
    )


def _is_named(path: Path) -> bool:
    """A copy under another name (checkpoint-3-good, checkpoint-03) is the user's."""
    return bool(_NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()


def checkpoint_directory(directory: Path, step: int) -> Path:
    """Where the trainer writes its state after a step."""
    return directory / f"checkpoint-{step}"


def checkpoint_at(directory: Path, step: int) -> Path | None:
    """The checkpoint of this step if it is whole."""
    path = checkpoint_directory(directory, step)
    return path if _has_all(path) and not damage_of(path) else None


def seal(checkpoint: Path) -> None:
    """Give a checkpoint that was just written to the disk, with what its files hold written down,
    for when it is gone on from."""
    if _has_all(checkpoint):
        sync_tree(checkpoint)
        paths = (checkpoint / name for name in (*_PARTS, *_MORE))
        hashes = hashes_of((path for path in paths if path.is_file()), checkpoint)
        write_json(checkpoint / _HASHES, hashes)
        sync_folder(checkpoint.parent)


def drop_older(directory: Path, *, last: int, best: int | None, keep: int) -> None:
    """Delete checkpoints until `keep` are left: the last (which is on the disk by now), the best,
    and the newest of the others. One with somebody's files in it stays beside them."""
    kept = {last, last if best is None else best}
    # What is beyond the last step was left out as damaged, and will be written again.
    older = [step for step in map(step_of, _numbered(directory)) if step < last]
    for step in sorted(set(older) - kept, reverse=True):
        if len(kept) < keep:
            kept.add(step)
        elif is_checkpoint(path := checkpoint_directory(directory, step)):
            remove(path)


def damage_of(checkpoint: Path) -> list[str]:
    """What is wrong with the files of a checkpoint, in words. Without recorded hashes (a kill came
    before them, or an older release wrote it) only their form is looked at."""
    record = checkpoint / _HASHES
    try:
        if record.is_file():
            return changed_files(read_json(record), checkpoint)
        json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        stored_tensors(checkpoint / _WEIGHTS)
        for name in _PICKLED:
            with zipfile.ZipFile(checkpoint / name) as archive:
                if archive.testzip() is not None:
                    return [f"{checkpoint / name}: damaged"]
    except (TuneserveError, OSError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        return [str(error).splitlines()[0]]
    return []


def discard(directory: Path) -> None:
    """Delete an unfinished training. Raises UsageError if there is more in its folder."""
    checkpoints = [path for path in _numbered(directory) if path.is_dir()]
    own = (*OWN_FILES, *(f"{path.name}/" for path in checkpoints))
    check_replaceable(directory, own, what="training")
    for path in checkpoints:
        check_replaceable(path, _CHECKPOINT_FILES, what="checkpoint")
    remove(directory)


def claim(directory: Path, identity: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from, if these are the settings and data it was made with.

    Writes the fingerprint of a fresh run. Raises UsageError if the directory holds checkpoints
    of other settings, or a replacement with others was begun there.
    """
    record = directory / FINGERPRINT
    last = last_checkpoint(directory)
    if last is not None or is_replacing(directory):
        known = _recorded(record) if record.is_file() else {}
        if known != identity:
            raise UsageError(
                f"an unfinished training with {_difference(known, identity)} is here",
                where=str(directory),
                hint=_AFRESH,
            )
        return last
    make_folder(directory)
    write_json(record, identity)
    return None


def _recorded(record: Path) -> dict[str, Any]:
    """The fingerprint in a file, with the defaults of settings that the release which wrote it did
    not know: a training that it began goes on."""
    known = read_json(record, hint=_AFRESH)
    settings = known.get("settings")
    if (
        isinstance(settings, dict)
        and settings.keys() == {"model", "data", "train"}
        and all(isinstance(table, dict) for table in settings.values())
    ):
        known = {**known, "settings": _that_shape(with_defaults(settings))}
    return known


def mark_replacing(directory: Path, replacing: bool) -> None:
    """Write down whether this training is to replace a finished one, which stays until then: the
    checkpoints are not those of the adapter beside them."""
    mark = directory / _REPLACING
    mark.touch() if replacing else mark.unlink(missing_ok=True)
    sync_folder(directory)


def is_replacing(directory: Path) -> bool:
    """Is an unfinished training here that is to replace a finished one?"""
    return (directory / _REPLACING).exists()


def remember_strategy(directory: Path, decisions: Decisions) -> None:
    """Write down how training was fitted into the memory, for when it goes on."""
    write_json(directory / _STRATEGY, decisions.to_json())


def remembered_strategy(directory: Path) -> Decisions | None:
    """How the training that left these checkpoints was fitted into the memory, if it is known."""
    path = directory / _STRATEGY
    if not path.is_file():
        return None
    return parse(Decisions, read_json(path, hint=_AFRESH), where=str(path), hint=_AFRESH)


def _difference(known: dict[str, Any], identity: dict[str, Any]) -> str:
    """The first thing in which two fingerprints differ, in words."""
    settings = known.get("settings")
    for section, values in identity["settings"].items():
        before = settings.get(section) if isinstance(settings, dict) else None
        for key, value in values.items():
            if not isinstance(before, dict):
                return "settings that are not known"
            if before.get(key) != value:
                return f"{section}.{key} = {before.get(key)!r} instead of {value!r}"
    return "another base model or other data"


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _numbered(directory: Path) -> list[Path]:
    return [path for path in directory.glob("checkpoint-*") if _NAME.fullmatch(path.name)]


def _has_all(path: Path) -> bool:
    return all((path / name).is_file() for name in _PARTS)
