"""Do the benchmark's 95 % intervals hold the truth 95 times in 100, and does A/A stay silent?

Simulates benchmarks with a known truth (bench/simulation.py): independent prompts, and prompts
that share sources, evenly and unevenly. Wanted: coverage from 93 to 97 %, false alarms at most
5 %, and that a true difference of the size called smallest detectable is shown 4 times in 5 (75 to
85 %). Where prompts share sources, the coverage that ignoring them would give is told too: it is
why they are resampled together.

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

from bench.simulation import Design, covered, power_at_smallest

LOWEST, HIGHEST, MOST_ALARMS = 0.93, 0.97, 0.05
LEAST_POWER, MOST_POWER = 0.75, 0.85
CASES = (Design(100), Design(400), Design(400, 4), Design(400, 4, uneven=True))
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--benchmarks", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    options = parser.parse_args()
    rows = []
    for design in CASES:
        rows.append(figures(design, options))
        show(rows[-1])
    good = all(map(is_good, rows))
    print(json.dumps({"benchmarks": options.benchmarks, "within_bounds": good, "cases": rows}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
