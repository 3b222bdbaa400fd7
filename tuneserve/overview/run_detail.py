"""One run, all that its record tells: for `show` and `ui`."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from tuneserve.changes import changed_settings, with_defaults
from tuneserve.console import human_bytes
from tuneserve.overview.run_files import Removable, foreign_in, removable_of, size_of
from tuneserve.overview.run_summary import RunSummary, summary_of
from tuneserve.records import Record
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


class RunDetail(Record):
    """A run with what `summary` has not: the settings that are not the defaults, by
    'section.name', and as lines that tell the default too; the bytes of each part of its folder;
    what can be removed; and what was not made by tuneserve."""

    summary: RunSummary
    settings: dict[str, Any] = Field(default_factory=dict)
    changed: list[str] = Field(default_factory=list)
    parts_bytes: dict[str, int] = Field(default_factory=dict)
    removable: list[Removable] = Field(default_factory=list)
    not_ours: list[str] = Field(default_factory=list)


def detail_of(run: RunDirectory) -> RunDetail:
    """Raises UsageError where there is no such run, TuneserveError where its record is damaged."""
    run.require()
    defaults = Recipe().model_dump(mode="json")
    saved = with_defaults(run.saved_settings())
    return RunDetail(
        summary=summary_of(run),
        settings={
            f"{section}.{name}": value
            for section, values in saved.items()
            for name, value in values.items()
            if defaults.get(section, {}).get(name, ...) != value
        },
        changed=[
            line.replace(" was ", " (default ", 1).replace(", is ", "): ", 1)
            for line in changed_settings(defaults, saved)
        ],
        parts_bytes={
            path.name: size_of(path) for path in sorted(run.root.iterdir()) if not path.is_symlink()
        },
        removable=removable_of(run),
        not_ours=[str(path) for path in foreign_in(run)],
    )


def shown_figure(name: str, value: float) -> str:
    """A figure in the unit that its name says; of a damaged record it may be no finite one."""
    if not math.isfinite(value):
        return str(value)
    if name.endswith("_bytes"):
        return human_bytes(value)
    if name.startswith("accuracy") or name == "gain_kept":
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.4g}"
