"""Do the benchmark's 95 % intervals hold the truth 95 times in 100, and does A/A stay silent?

Simulates benchmarks with a known truth (bench_simulation.py), 2,000 of each design, and prints
Markdown tables: coverage by number of prompts, and by number of sources of 20 prompts each that
share much; by number of prompts where few of them are of another kind or tails are heavier than
supposed (bench_mixtures.py; shown, only alarms and skewed gains are judged); how often a model is
called different from one that is as good; how often a difference as large as the one called
smallest detectable is shown; how often a gap between groups is called widened.

Wanted: coverage from 93 to 97 %. Above only where the figure takes few values or few prompts
differ, so that no interval can hold the truth exactly so often, and for right or wrong with
sources, where the longer of two intervals is taken (both marked *); up to 98.5 % with sources of
unequal sizes, whose standard errors are on the safe side. No interval of zero width, false alarms
at most 5 %, the smallest detectable difference shown 4 times in 5. `–`: no interval is given.
Shares are of --benchmarks draws, so that each may be two standard errors beside the bound (1.0
point at 2,000).

    python benchmarks/bench_coverage.py [--benchmarks 2000] [--part prompts …] [--json]

Designs run in parallel. Exits with 1 if a figure is out of bounds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice

# Each process computes one design: its linear algebra needs no threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from bench_mixtures import EVEN, FEWEST_SKEWED, MIXTURES, SKEWED, SOURCE_MIXTURES
from bench_simulation import (
    DRAWS,
    Design,
    Found,
    GapDesign,
    GapFound,
    Kind,
    PowerDesign,
    find,
    find_gap,
    power_at_smallest,
)

LOWEST, HIGHEST, HIGHEST_UNEVEN, MOST_ALARMS = 0.93, 0.97, 0.985, 0.05
LEAST_POWER, LEAST_SHOWN = 0.7, 0.8
PROMPTS = (10, 20, 50, 100, 500)
MIXED = (10, 20, 30, 50, 100, 200)
MIXED_SOURCES = (6, 8, 12, 20, 50)
SOURCES = (2, 3, 5, 8, 20)
EQUAL = ("paired .02", "paired .3", "json same")  # neither model is better
POWERS = (
    PowerDesign(100, 0, 0.3, whole=True, level=0.05),
    PowerDesign(400, 0, 0.1, whole=True, level=0.05),
    PowerDesign(100, 0, 0.3, whole=False, level=0.05),
    PowerDesign(100, 0, 0.3, whole=False, level=0.05 / 4),
    PowerDesign(0, 8, 0.9, whole=True, level=0.05),
    PowerDesign(0, 20, 0.9, whole=False, level=0.05),
    PowerDesign(0, 20, 0.9, whole=False, level=0.05 / 4),
)
GAPS = (
    GapDesign((0.0,) * 3, (0.8,) * 3, 50),
    GapDesign((0.0,) * 6, (0.8,) * 6, 25),
    GapDesign((0.5,) * 8, (0.5,) * 8, 25),
    GapDesign((0.0,) * 3, (0.8,) * 3, 52, per_source=4),
    GapDesign((0.1, 0.3, 0.3), (0.6, 0.8, 0.8), 50),
    GapDesign((0.02, 0.06, 0.12), (0.45, 0.49, 0.55), 25),
    GapDesign((0.4, 0.6), (0.4, 0.6), 50),
    GapDesign((0.3, 0.3, 0.3), (0.8, 0.8, 0.3), 50),
)
SEED = 20_000


def is_good(found: Found, slack: float) -> bool:
    """Within bounds but for the error of simulation?"""
    if found.refused:
        return True
    highest = HIGHEST_UNEVEN if found.design.uneven else HIGHEST
    if DRAWS[found.design.kind].discrete:
        highest = 1.0
    silent = found.called is None or found.design.kind not in EQUAL or found.called <= MOST_ALARMS
    return LOWEST - slack <= found.covered <= highest + slack and found.no_width == 0 and silent


def by_prompts() -> list[Design]:
    return [Design(kind, prompts=count) for kind in DRAWS for count in PROMPTS]


def by_sources() -> list[Design]:
    return [
        Design(kind, sources=count, uneven=uneven)
        for uneven in (False, True)
        for kind in DRAWS
        for count in SOURCES
    ]


def by_mixtures() -> list[Design]:
    return [Design(kind, prompts=count) for kind in MIXTURES for count in MIXED]


def by_source_mixtures() -> list[Design]:
    return [Design(kind, sources=count) for kind in SOURCE_MIXTURES for count in MIXED_SOURCES]


def find_mixture(design: Design, *, benchmarks: int, seed: int) -> Found:
    kinds = {**MIXTURES, **SOURCE_MIXTURES}
    return find(design, benchmarks=benchmarks, seed=seed, kinds=kinds)


def show_mixtures(found: Iterable[Found]) -> list[Found]:
    """Coverage of all samples; in brackets of those that show the rare kind, and how many do."""
    rows: list[list[Found]] = []
    _header("coverage, %, beyond what is supposed", MIXED)
    each = iter(found)
    while row := list(islice(each, len(MIXED))):
        rows.append(row)
        _line(row, [_cell(one) for one in row], MIXTURES)
    _header("as good, called different, %", MIXED)
    for row in rows:
        if row[0].design.kind in EVEN:
            _line(row, [f"{100 * (one.called or 0.0):.1f}" for one in row], MIXTURES)
    return [one for row in rows for one in row]


def show_source_mixtures(found: Iterable[Found]) -> list[Found]:
    """The same by sources, each of one kind."""
    every = list(found)
    for title, cell in (
        ("coverage, %, by sources, beyond what is supposed", _cell),
        ("as good, called different, %", lambda one: f"{100 * (one.called or 0.0):.1f}"),
    ):
        _header(title, MIXED_SOURCES)
        for start in range(0, len(every), len(MIXED_SOURCES)):
            row = every[start : start + len(MIXED_SOURCES)]
            _line(row, [cell(one) for one in row], SOURCE_MIXTURES)
    return every


def _cell(found: Found) -> str:
    text = f"{100 * found.covered:.1f}"
    if found.shown is None or found.covered_if_shown is None:
        return text
    return f"{text} ({100 * found.covered_if_shown:.1f} of {100 * found.shown:.0f})"


def show(title: str, columns: Sequence[int], found: Iterable[Found]) -> list[Found]:
    """A table of coverage, row by row as they are found, then one of false alarms."""
    width = len(columns)
    rows: list[list[Found]] = []
    _header(title, columns)
    each = iter(found)
    while row := list(islice(each, width)):
        rows.append(row)
        _line(row, ["–" if one.refused else f"{100 * one.covered:.1f}" for one in row])
    _header("A/A called different, %", columns)
    for row in rows:
        if row[0].design.kind in EQUAL:
            _line(row, ["–" if one.called is None else f"{100 * one.called:.1f}" for one in row])
    return [one for row in rows for one in row]


def _header(title: str, columns: Sequence[int]) -> None:
    print(f"\n| {title} | design | {' | '.join(map(str, columns))} |")
    print("|---|---|" + "---:|" * len(columns), flush=True)


def _line(row: Sequence[Found], cells: Sequence[str], kinds: Mapping[str, Kind] = DRAWS) -> None:
    kind = kinds[row[0].design.kind]
    about = kind.about + ", uneven" * row[0].design.uneven + "*" * kind.discrete
    print(f"| {kind.quantity} | {about} | {' | '.join(cells)} |", flush=True)


def show_powers(powers: Sequence[float]) -> None:
    print("\n| the smallest detectable difference is shown, % | level | |\n|---|---:|---:|")
    for design, power in zip(POWERS, powers, strict=True):
        size = f"{design.sources} sources" if design.sources else f"{design.prompts} prompts"
        how = "right or wrong" if design.whole else "graded"
        about = f"{size}, {how}, {100 * design.differ:.0f} % differ"
        print(f"| {about} | {design.level:.3g} | {100 * power:.1f} |", flush=True)


def show_gaps(gaps: Sequence[GapFound]) -> None:
    print("\n| groups: base | tuned | prompts each | called widened, % |")
    print("|---|---|---:|---:|", flush=True)
    for design, found in zip(GAPS, gaps, strict=True):
        base, tuned = (" ".join(f"{100 * share:.0f}" for share in shares) for shares in
                       (design.base, design.tuned))  # fmt: skip
        size = f"{design.prompts}" + (f", {design.per_source} a source" * (design.per_source > 1))
        print(f"| {base} | {tuned} | {size} | {100 * found.widened:.1f} |")
    print("\n| groups, tuned | the gap given, points | observed |\n|---|---:|---:|")
    for design, found in zip(GAPS, gaps, strict=True):
        tuned = " ".join(f"{100 * share:.0f}" for share in design.tuned)
        print(f"| {tuned} | {100 * found.given:.1f} | {100 * found.observed:.1f} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--benchmarks", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000, help="for gaps")
    parser.add_argument("--json", action="store_true", help="print JSON after the tables")
    parts = ("prompts", "sources", "mixtures", "power", "gaps")
    parser.add_argument("--part", action="append", choices=parts, help="default: all")
    options = parser.parse_args()
    wanted = options.part or parts
    slack = 2 * math.sqrt(0.05 * 0.95 / options.benchmarks)
    good, found = True, {}
    with ProcessPoolExecutor() as pool:
        for name, title, columns, designs in (
            ("prompts", "coverage, %, by prompts", PROMPTS, by_prompts()),
            ("sources", "coverage, %, by sources", SOURCES, by_sources()),
        ):
            if name in wanted:
                search = partial(find, benchmarks=options.benchmarks, seed=SEED)
                cases = show(title, columns, pool.map(search, designs))
                found[name] = [asdict(case) for case in cases]
                good &= all(is_good(case, slack) for case in cases)
        if "mixtures" in wanted:
            look_at = partial(find_mixture, benchmarks=options.benchmarks, seed=SEED)
            mixed = show_mixtures(pool.map(look_at, by_mixtures()))
            found["mixtures"] = [asdict(case) for case in mixed]
            good &= all(case.no_width == 0 for case in mixed)
            good &= all(
                case.covered >= LOWEST - slack
                for case in mixed
                if case.design.kind in SKEWED and case.design.prompts >= FEWEST_SKEWED
            )
            even = [case for case in mixed if case.design.kind in EVEN]
            even += show_source_mixtures(pool.map(look_at, by_source_mixtures()))
            good &= all((case.called or 0.0) <= MOST_ALARMS + slack for case in even)
        if "power" in wanted:
            powers = list(
                pool.map(partial(power_at_smallest, benchmarks=options.benchmarks), POWERS)
            )
            show_powers(powers)
            found["power"] = [
                {**asdict(design), "power": power}
                for design, power in zip(POWERS, powers, strict=True)
            ]
            good &= all(power >= LEAST_POWER for power in powers)
        if "gaps" in wanted:
            look = partial(
                find_gap, benchmarks=options.benchmarks, resamples=options.resamples, seed=SEED
            )
            gaps = list(pool.map(look, GAPS))
            show_gaps(gaps)
            found["gaps"] = [
                {**asdict(design), **asdict(gap)} for design, gap in zip(GAPS, gaps, strict=True)
            ]
            good &= all(
                gap.widened >= LEAST_SHOWN if design.widens else gap.widened <= MOST_ALARMS
                for design, gap in zip(GAPS, gaps, strict=True)
            )
    if options.json:
        print(json.dumps({"benchmarks": options.benchmarks, "within_bounds": good, **found}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
