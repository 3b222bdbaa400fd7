"""What lies in the cache and can be removed: everything there is made or fetched again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuneserve.errors import TuneserveError
from tuneserve.files import cache_directory, remove
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.locks import HeldError, locked
from tuneserve.overview.run_files import Removable, size_of
from tuneserve.run import RunDirectory

# By folder of the cache: what it is, and what is lost with it.
_WHOLE = {
    "unsloth_compiled": ("modules that Unsloth compiled", "compiling again"),
    "compiled_kernels": ("compiled layers of trainings", "a minute of compiling"),
    "loadable": ("which GGUFs llama.cpp loads", "about a second for each"),
    "data": ("data sets that were fetched", "they are fetched again"),
}


def cache_parts(runs: Sequence[RunDirectory]) -> list[Removable]:
    """The parts of the cache; bases that a run was trained on, and those that are being imported,
    are left out."""
    cache = cache_directory()
    used = {path.resolve() for path in map(_base_of, runs) if path is not None}
    found = [
        Removable(path=str(cache / name), what=what, size_bytes=size_of(cache / name), lost=lost)
        for name, (what, lost) in _WHOLE.items()
        if (cache / name).is_dir() and any((cache / name).iterdir())
    ]
    bases = [path for path in sorted((cache / "bases").glob("*/")) if path.name[0] != "."]
    found += [
        Removable(
            path=str(base), what="a base imported from a GGUF", size_bytes=size_of(base),
            lost="it is imported again",
        )
        for base in bases
        if base.resolve() not in used
    ]  # fmt: skip
    return found


def remove_cached(parts: Sequence[Removable]) -> None:
    """Remove parts of the cache; a base that is being imported right now stays."""
    for part in parts:
        path = Path(part.path)
        if path.parent.name != "bases":
            for inner in path.iterdir():
                remove(inner)
            continue
        try:
            with locked(path.with_name(f"{path.name}.lock"), wait=False):
                remove(path)
        except HeldError:
            continue


def _base_of(run: RunDirectory) -> Path | None:
    """The checkpoint that a run was trained on, where its record tells."""
    try:
        trained = run.finished("train", TrainOutput)
    except TuneserveError:
        return None
    return Path(trained.base.path) if trained is not None else None
