"""What a finished report was made of: is it still what the same command would make now?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tuneserve
from tuneserve.bench.result import BenchResult
from tuneserve.bench.tasks.lm_eval.tasks import input_files
from tuneserve.bench.tasks.scorers import scorer_files
from tuneserve.bench.tasks.tasks import is_task_file, split_entry
from tuneserve.changes import changed_settings
from tuneserve.files import sha256_file
from tuneserve.options import OF_THE_SERVER_ALONE
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings, Recipe

RELEASE = "tuneserve"
# They change what the command does with a report, not the report.
_OF_THE_COMMAND = {"fail_if_worse", "fail_below"}


def report_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that a report depends on, as JSON."""
    found = recipe.model_dump(
        mode="json", include={"bench": True, "serve": True, "data": {"thoughts"}}
    )
    for table, left_out in (("bench", _OF_THE_COMMAND), ("serve", OF_THE_SERVER_ALONE)):
        found[table] = {name: value for name, value in found[table].items() if name not in left_out}
    return found


def input_hashes(run: RunDirectory, settings: BenchSettings) -> dict[str, str]:
    """SHA-256 of every file beside the models that a benchmark reads, by path: the splits, the
    files of further tasks, the texts, the scorer with what it imports from its folder."""
    paths = {run.split(name) for name in ("test", "train", "general")}
    paths |= set(map(Path, settings.texts))
    if settings.judge_labels:
        paths.add(Path(settings.judge_labels))
    for entry in settings.tasks:
        if is_task_file(entry):
            paths |= input_files(entry)
            continue
        path = split_entry(entry)[0]
        paths |= set(path.rglob("*")) if path.is_dir() else {path}
    if settings.task == "python" or any(entry.endswith("=python") for entry in settings.tasks):
        paths |= set(scorer_files(settings.scorer))
    return {**_hashes(paths), RELEASE: tuneserve.__version__}


def what_is_new(
    result: BenchResult, run: RunDirectory, recipe: Recipe, sha256: Mapping[str, str]
) -> list[str]:
    """What of models, files and settings is not as it was when the report was made, in words;
    empty if the report is up to date."""
    found = changed_settings(result.settings, report_settings(recipe))
    now = input_hashes(run, recipe.bench)
    # Of what a scorer imports only the record tells, since the scorer has not run yet.
    now |= _hashes(Path(name) for name in result.inputs.keys() - now.keys())
    before, release = dict(result.inputs), now.pop(RELEASE)
    if before.pop(RELEASE, None) != release:
        found.append(f"tuneserve was {result.inputs.get(RELEASE, 'older')}, is {release}")
    found += _differing(result.sha256, sha256, "the model ")
    return found + _differing(before, now)


def _differing(before: Mapping[str, str], now: Mapping[str, str], what: str = "") -> list[str]:
    """Which files' hashes are others, by name."""
    names = sorted(before.keys() | now.keys())
    said = {name: "has changed" for name in names if before.get(name) != now.get(name)}
    said |= dict.fromkeys(before.keys() - now.keys(), "is gone")
    said |= dict.fromkeys(now.keys() - before.keys(), "is new")
    return [f"{what}{name} {said[name]}" for name in names if name in said]


def _hashes(paths: Iterable[Path]) -> dict[str, str]:
    return {str(path): sha256_file(path) for path in sorted(paths) if path.is_file()}
