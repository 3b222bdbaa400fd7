"""Do the benchmark's 95 % intervals hold the truth 95 times in 100, and does A/A stay silent?

Simulates benchmarks with a known truth (bench_simulation.py): independent prompts, and prompts
that share sources, evenly and unevenly. Wanted: coverage from 93 to 97 %, false alarms at most
5 %, and that a true difference of the size called smallest detectable is shown 4 times in 5 (75 to
85 %). Where prompts share sources, the coverage that ignoring them would give is told too: it is
why they are resampled together.

Then groups of prompts: that the gap between the best and the worst is called widened at most 5
times in 100 where it stays the same, and at least 4 times in 5 where it grows from 0 to 50 points.
What the interval alone would call is told too.

    python benchmarks/bench_coverage.py [--benchmarks 2000]

Prints a table, then one line of JSON; exits with 1 if a figure is out of bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench_simulation import Design, GapDesign, covered, power_at_smallest, share_widened

LOWEST, HIGHEST, MOST_ALARMS = 0.93, 0.97, 0.05
LEAST_POWER, MOST_POWER = 0.75, 0.85
CASES = (Design(100), Design(400), Design(400, 4), Design(400, 4, uneven=True))
LEAST_SHOWN = 0.8
GAPS = (
    GapDesign((0.0,) * 3, (0.8,) * 3, 50),
    GapDesign((0.0,) * 6, (0.8,) * 6, 25),
    GapDesign((0.0,) * 3, (0.8,) * 3, 52, per_source=4),
    GapDesign((0.1, 0.3, 0.3), (0.6, 0.8, 0.8), 50),
    GapDesign((0.02, 0.06, 0.12), (0.45, 0.49, 0.55), 25),
    GapDesign((0.4, 0.6), (0.4, 0.6), 50),
    GapDesign((0.3, 0.3, 0.3), (0.8, 0.8, 0.3), 50),
)
SEED = 20_000


def figures(design: Design, options: argparse.Namespace) -> dict[str, Any]:
    """All that is known of one design."""
    found = covered(design, benchmarks=options.benchmarks, resamples=options.resamples, seed=SEED)
    power = power_at_smallest(
        design, benchmarks=options.benchmarks // 5, resamples=options.resamples, seed=SEED
    )
    return {**asdict(design), **asdict(found), "power": power}


def show(row: Mapping[str, Any]) -> None:
    def shares(values: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {share:.1%}" for name, share in values.items())

    sizes = f"{row['per_source']} a source{', uneven' if row['uneven'] else ''}"
    print(f"{row['prompts']} prompts, {sizes}: {shares(row['intervals'])}")
    if row["ignoring_sources"]:
        print(f"  had sources been ignored: {shares(row['ignoring_sources'])}")
    print(
        f"  A/A calls a difference {row['false_alarms']:.1%}; "
        f"the smallest detectable is shown {row['power']:.1%}",
        flush=True,
    )


def is_good(row: Mapping[str, Any]) -> bool:
    return (
        all(LOWEST <= share <= HIGHEST for share in row["intervals"].values())
        and row["false_alarms"] <= MOST_ALARMS
        and LEAST_POWER <= row["power"] <= MOST_POWER
    )


def gap_figures(design: GapDesign, options: argparse.Namespace) -> dict[str, Any]:
    """How often one design's gap is called widened."""
    shown, by_interval = share_widened(
        design, benchmarks=options.benchmarks, resamples=options.resamples, seed=SEED
    )
    good = shown >= LEAST_SHOWN if design.widens else shown <= MOST_ALARMS
    return {**asdict(design), "widened": shown, "by_interval_alone": by_interval, "good": good}


def show_gap(row: Mapping[str, Any]) -> None:
    base, tuned = (" ".join(f"{share:.0%}" for share in row[name]) for name in ("base", "tuned"))
    sizes = f"{row['prompts']} prompts each, {row['per_source']} a source"
    print(
        f"groups from {base} to {tuned}, {sizes}: called widened {row['widened']:.1%}; "
        f"by the interval alone {row['by_interval_alone']:.1%}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--benchmarks", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    options = parser.parse_args()
    rows = []
    for design in CASES:
        rows.append(figures(design, options))
        show(rows[-1])
    gaps = []
    for gap_design in GAPS:
        gaps.append(gap_figures(gap_design, options))
        show_gap(gaps[-1])
    good = all(map(is_good, rows)) and all(row["good"] for row in gaps)
    found = {"within_bounds": good, "cases": rows, "gaps": gaps}
    print(json.dumps({"benchmarks": options.benchmarks, **found}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
