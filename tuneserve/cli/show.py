"""`tuneserve show`: one run, all that its record tells in short."""

from __future__ import annotations

import click

from tuneserve.cli.common import RUN_NAME
from tuneserve.console import human_bytes, print_json, say, table
from tuneserve.run import RunDirectory


@click.command("show")
@click.argument("run_name", metavar="RUN", type=RUN_NAME)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on stdout.")
def command(run_name: str, as_json: bool) -> None:
    """Show a run: what it was made of, its figures, sizes, and what can be removed.

    \b
    tuneserve show sentiment
    """
    from tuneserve.changes import changed_settings, with_defaults
    from tuneserve.cli.run_files import foreign_in, removable_of, size_of
    from tuneserve.cli.run_summary import summary_of
    from tuneserve.settings import Recipe

    run = RunDirectory.named(run_name).require()
    found = summary_of(run)
    removable = removable_of(run)
    defaults = Recipe().model_dump(mode="json")
    saved = with_defaults(run.saved_settings())
    changed = {
        f"{section}.{name}": value
        for section, values in saved.items()
        for name, value in values.items()
        if defaults.get(section, {}).get(name, ...) != value
    }
    parts = {
        path.name: size_of(path) for path in sorted(run.root.iterdir()) if not path.is_symlink()
    }
    foreign = [str(path) for path in foreign_in(run)]
    if as_json:
        print_json(
            {
                **found.to_json(), "settings": changed, "parts_bytes": parts,
                "removable": [part.to_json() for part in removable], "not_ours": foreign,
            }
        )  # fmt: skip
        return
    say(f"{found.name}: {found.state}; begun {found.created}; base {found.base}")
    for line in changed_settings(defaults, saved):
        say(f"  {line.replace(' was ', ' (default ', 1).replace(', is ', '): ', 1)}")
    table("Figures", ["figure", "value"], [[name, shown(name, value)] for name, value in
                                           found.figures.items()])  # fmt: skip
    if found.verdict:
        say(found.verdict)
    table("On disk", ["part", "size"], [[name, human_bytes(size)] for name, size in parts.items()])
    for part in removable:
        say(f"can be removed: {part.path} ({human_bytes(part.size_bytes)}): {part.what}")


def shown(name: str, value: float) -> str:
    """A figure in the unit that its name says."""
    if name.endswith("_bytes"):
        return human_bytes(value)
    if name.startswith("accuracy") or name == "gain_kept":
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
