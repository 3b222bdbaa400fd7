"""`tuneserve clean`: remove what no run needs."""

from __future__ import annotations

import click

from tuneserve.cli.common import RUN_NAME, confirmed
from tuneserve.console import human_bytes, print_json, say
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
    here was trained on stay. Shows the list and asks before. Exit code 1 if it was not removed.

    \b
    tuneserve clean --dry-run
    tuneserve clean sentiment --yes
    """
    from tuneserve.cli.cache_files import cache_parts, remove_cached
    from tuneserve.overview.run_files import removable_of, remove_part

    named = [RunDirectory.named(name).require() for name in dict.fromkeys(runs)] or all_runs()
    of_runs = {run.name: (run, removable_of(run)) for run in named}
    cached = cache_parts(all_runs()) if cache else []
    every = [part for _, parts in of_runs.values() for part in parts] + cached
    total = sum(part.size_bytes for part in every)
    removed = False
    if every:
        for part in every:
            size = human_bytes(part.size_bytes)
            say(f"{size:>10}  {part.path}: {part.what}; lost with it: {part.lost}")
        removed = not dry_run and confirmed(f"Remove {human_bytes(total)}?", yes=yes)
    else:
        say("nothing to remove")
    if removed:
        for run, parts in of_runs.values():
            if parts:
                with run.alone():
                    still = {part.path for part in removable_of(run, held=True)}
                    for part in parts:
                        if part.path in still:
                            remove_part(part)
        remove_cached(cached)
        say(f"removed: {human_bytes(total)}")
    if as_json:
        print_json({
            "removable": [part.to_json() for part in every], "bytes": total, "removed": removed,
        })  # fmt: skip
    return 0 if removed or dry_run or not every else 1
