"""`tuneserve clean`: remove what no run needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from tuneserve.cli.common import RUN_NAME, confirmed
from tuneserve.console import human_bytes, print_json, say
from tuneserve.errors import TuneserveError, of_system
from tuneserve.foreign import check_own_folders
from tuneserve.run import RunDirectory, all_runs


@click.command("clean")
@click.argument("runs", nargs=-1, type=RUN_NAME)
@click.option("--cache", is_flag=True, help="Clean the cache too (see the list that is shown).")
@click.option("--dry-run", is_flag=True, help="Only show what could be removed.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON on stdout.")
def command(runs: tuple[str, ...], cache: bool, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove what can go and every run stays whole; of all runs, or of those named.

    Checkpoints of trainings that are done, what killed processes left, measurements that were
    replaced. With --cache also what is made or fetched again when it is needed; bases that a run
    here was trained on or a process is using stay. What tuneserve did not make stays, and is told;
    a checkpoint or a base with such a file in it stays whole.
    Shows the list and asks before. Exit code 1 if it was not removed, or not of every run.

    \b
    tuneserve clean --dry-run
    tuneserve clean sentiment --yes
    """
    from tuneserve.cli.cache_files import (
        cache_parts,
        foreign_in_folders,
        kept_bases,
        remove_cached,
        used_in_cache,
    )
    from tuneserve.overview.run_files import kept_in, removable_of, remove_part

    named = [RunDirectory.named(name).require() for name in dict.fromkeys(runs)] or all_runs()
    left: dict[str, TuneserveError] = {}
    of_runs = {}
    for run in named:
        if parts := removable_of(run):
            with _told_if_left(run, left):
                check_own_folders(run.root)
                of_runs[run.name] = run, parts
    cached = cache_parts(all_runs()) if cache else []
    every = [part for _, parts in of_runs.values() for part in parts] + cached
    stays = [path for run in named for path in kept_in(run)] + (kept_bases() if cache else [])
    for path in stays:
        say(f"stays with the folder it is in, tuneserve did not make it: {path}")
    if cache:
        for path in (beside := foreign_in_folders()):
            say(f"stays, tuneserve did not make it: {path}")
        for path, user in (used := used_in_cache()).items():
            say(f"stays, it is in use by {user}: {path}")
        stays += [*beside, *used]
    size = sum(part.size_bytes for part in every)
    confirmed_removal = False
    if every:
        for part in every:
            shown = human_bytes(part.size_bytes)
            say(f"{shown:>10}  {part.path}: {part.what}; lost with it: {part.lost}")
        confirmed_removal = not dry_run and confirmed(f"Remove {human_bytes(size)}?", yes=yes)
    else:
        say("nothing to remove")
    removed = 0
    if confirmed_removal:
        for run, parts in of_runs.values():
            with _told_if_left(run, left), run.alone():
                still = {part.path for part in removable_of(run, held=True)}
                for part in parts:
                    if part.path in still:
                        remove_part(part)
                    elif os.path.lexists(part.path):
                        continue
                    # What killed processes left is cleared by whoever has the lock.
                    removed += part.size_bytes
        removed += remove_cached(cached)
        say(f"removed: {human_bytes(removed)}")
    if as_json:
        print_json({
            "removable": [part.to_json() for part in every], "bytes": size,
            "removed": confirmed_removal, "removed_bytes": removed,
            "stays": [str(path) for path in stays],
            "left": {name: error.render() for name, error in left.items()},
        })  # fmt: skip
    return 0 if dry_run or not (left or (every and not confirmed_removal)) else 1


@contextmanager
def _told_if_left(run: RunDirectory, left: dict[str, TuneserveError]) -> Iterator[None]:
    """Note in `left`, and say, why a run is not cleaned: the others are."""
    try:
        yield
    except (TuneserveError, OSError) as error:
        left[run.name] = error if isinstance(error, TuneserveError) else of_system(error)
        say(f"left as it is: {left[run.name].render()}", lines=True)
