"""Do the benchmark's 95 % intervals hold the truth 95 times in 100, and does A/A stay silent?

Simulates benchmarks with a known truth (bench/simulation.py), with independent prompts and with
prompts that share sources. Wanted: coverage from 93 to 97 %, false alarms at most 5 %.

    python benchmarks/bench_coverage.py [--benchmarks 2000]

Prints a table, then one line of JSON; exits with 1 if a figure is out of bounds.
"""

from __future__ import annotations

import argparse
import json
import sys

from bench.simulation import covered

LOWEST, HIGHEST, MOST_ALARMS = 0.93, 0.97, 0.05
CASES = ((100, 1), (400, 1), (400, 4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--benchmarks", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    options = parser.parse_args()
    rows = []
    for prompts, per_source in CASES:
        found = covered(
            benchmarks=options.benchmarks,
            prompts=prompts,
            per_source=per_source,
            resamples=options.resamples,
            seed=20_000,
        )
        rows.append({"prompts": prompts, "per_source": per_source, **vars(found)})
        figures = ", ".join(f"{name} {share:.1%}" for name, share in found.intervals.items())
        print(
            f"{prompts} prompts, {per_source} a source: {figures}; "
            f"A/A calls a difference {found.false_alarms:.1%}",
            flush=True,
        )
    good = all(
        all(LOWEST <= share <= HIGHEST for share in row["intervals"].values())
        and row["false_alarms"] <= MOST_ALARMS
        for row in rows
    )
    print(json.dumps({"benchmarks": options.benchmarks, "within_bounds": good, "cases": rows}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
