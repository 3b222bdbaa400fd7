"""`tuneserve rm`: remove runs."""

from __future__ import annotations

import click

from tuneserve.cli.common import RUN_NAME, confirmed
from tuneserve.console import human_bytes, print_json, say
from tuneserve.run import RunDirectory


@click.command("rm")
@click.argument("runs", nargs=-1, required=True, type=RUN_NAME)
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print what was removed as JSON on stdout.")
def command(runs: tuple[str, ...], yes: bool, as_json: bool) -> int:
    """Remove runs: what tuneserve made in them, and nothing else.

    Asks before; a run that a process is at work on is refused. Exit code 1 if nothing was removed.

    \b
    tuneserve rm first second
    """
    from tuneserve.overview.run_files import foreign_in, remove_run, size_of

    found = [RunDirectory.named(name).require_folder() for name in dict.fromkeys(runs)]
    sizes = {
        # Of a link to another run, or to nothing, the link alone goes.
        run.name: 0 if run.other_name_of is not None or run.leads_nowhere else size_of(run.root)
        for run in found
    }
    for run in found:
        if run.other_name_of is not None:
            say(f"{run.root}: a link to the run {run.other_name_of}, which stays")
            continue
        if run.leads_nowhere:
            say(f"{run.root}: a link to nothing ({run.root.readlink()})")
            continue
        place = f"{run.root} -> {run.root.resolve()}" if run.root.is_symlink() else str(run.root)
        say(f"{place}: {human_bytes(sizes[run.name])}")
        for path in foreign_in(run):
            say(f"  stays, tuneserve did not make it or not all in it: {path}")
    if not confirmed(f"Remove {len(found)} run{'s' * (len(found) != 1)}?", yes=yes):
        return 1
    removed: dict[str, int] = {}
    kept: dict[str, list[str]] = {}
    for run in found:
        kept[run.name] = [str(path) for path in remove_run(run)]
        removed[run.name] = sizes[run.name] - size_of(run.root)
        size = human_bytes(removed[run.name])
        if run.root.is_dir():
            say(f"removed: {size} of {run.root}; the folder stays, with what stands above")
        else:
            say(f"removed: {run.root} ({size})")
    if as_json:
        print_json({"removed": removed, "kept": kept})
    return 0
