"""Is every figure of a finished benchmark that of its answers.jsonl, to all printed digits?

Differences, accuracies, perplexities with their intervals, p and Holm's adjustment are computed
again by scipy and plain loops (recomputed.py), and, where statsmodels is installed, what it has:
Wilson's limits, McNemar's exact p, Holm's, the t interval of the ratio of perplexities.

    python benchmarks/recompute_report.py runs/NAME/bench

Prints one line for every row of the report; exits with 1 if one is not there.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from recomputed import Row, holm, recomputed

from tuneserve.bench.compare.figures import p_value, points
from tuneserve.bench.compare.pairs import HELD_OUT
from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import Bootstrap
from tuneserve.bench.stats.proportions import wilson
from tuneserve.bench.stats.robust import spread_of


def check_rows(rows: list[Row], page: str, report: Row) -> bool:
    """Every row of the report's tables of accuracy and perplexity is the recomputed one."""
    tasks = {HELD_OUT: "All prompts"} | {task["name"]: "All" for task in report["tasks"]}
    good = True
    elsewhere = iter(
        holm([recomputed([r for r in rows if r["task"] == name]).p for name in list(tasks)[1:]])
    )
    if report["texts"]:
        print("texts leave no answers: the Holm-adjusted p of tasks beside them is not checked")
    kinds = iter(
        holm(
            [
                recomputed([row for row in rows if (row["task"], row["group"]) == kind]).p
                for task in list(tasks)[1:]
                for kind in kinds_of(rows, task)
            ]
        )
    )
    for task, name in tasks.items():
        own = [row for row in rows if row["task"] == task]
        groups = [group for _, group in kinds_of(rows, task)]
        parts = [recomputed([row for row in own if row["group"] == group]) for group in groups]
        adjusted = holm([part.p for part in parts])
        if task != HELD_OUT:
            adjusted = [next(kinds) for _ in parts]
        found = recomputed(own)
        p = found.p if task == HELD_OUT else next(elsewhere)
        lines = [found.table_row(name, p)]
        lines += [
            part.table_row(group, adjusted_p)
            for group, part, adjusted_p in zip(groups, parts, adjusted, strict=True)
        ]
        if task == HELD_OUT:
            lines.append(found.perplexity_row(name))
            lines += [each.perplexity_row(group) for group, each in zip(groups, parts, strict=True)]
        for line in lines:
            there = line in page
            good &= there
            print(f"{'equal  ' if there else 'DIFFERS'} {line}")
        sentence = f"A true difference of {100 * found.smallest:.1f} points would be shown"
        print(f"{'equal  ' if sentence in page else 'not said'} {sentence} ({task})")
    return good


def kinds_of(rows: list[Row], task: str) -> list[tuple[str, str]]:
    """A task's groups of prompts, as (task, group)."""
    names = {row["group"] for row in rows if row["task"] == task and row["group"] is not None}
    return [(task, name) for name in sorted(names)]


def check_statsmodels(rows: list[Row]) -> bool:
    """Our functions beside statsmodels' on these answers, each prompt alone."""
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint
    from statsmodels.stats.weightstats import DescrStatsW

    base, tuned = (np.array([row[name]["score"] for row in rows]) for name in ("base", "tuned"))
    won, lost = int((tuned > base).sum()), int((tuned < base).sum())
    right = int((tuned == 1).sum())
    ours = wilson(right, len(tuned))
    theirs = proportion_confint(right, len(tuned), method="wilson")
    tokens = np.array([row["base"]["reference_tokens"] for row in rows], dtype=np.float64)
    gains = np.array([row["tuned"]["reference_nll"] - row["base"]["reference_nll"] for row in rows])
    alone = Bootstrap(np.arange(len(rows)))
    equal_tokens = spread_of(alone.by_cluster(gains / tokens), alone.by_cluster(np.ones(len(rows))))
    half = float(equal_tokens.half_width(0.95) * np.sqrt(equal_tokens.variance))
    p_values = [0.011, 0.04, 0.03, significance.mcnemar_exact(won, lost)]
    pairs = {
        "Wilson, low": (ours.low, theirs[0]),
        "Wilson, high": (ours.high, theirs[1]),
        "McNemar, exact p": (
            significance.mcnemar_exact(won, lost),
            mcnemar([[0, won], [lost, 0]], exact=True).pvalue,
        ),
        "Holm": (max(significance.holm(p_values)), max(multipletests(p_values, method="holm")[1])),
        "t interval of gains in log-likelihood a token, low": (
            float(equal_tokens.value) - half,
            DescrStatsW(gains / tokens).tconfint_mean(0.05)[0],
        ),
    }
    for name, (mine, other) in pairs.items():
        print(f"statsmodels: {name}: {mine:.12g} and {other:.12g}")
    held = intervals.paired_difference(tuned, base, alone)
    print(f"(each prompt alone: {points(held.value)} points, p {p_value(p_values[-1])})")
    return all(abs(mine - other) < 1e-10 for mine, other in pairs.values())


def main() -> int:
    folder = Path(sys.argv[1])
    rows = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    report = json.loads((folder / "report.json").read_text())
    good = check_rows(rows, (folder / "report.md").read_text(), report)
    if find_spec("statsmodels"):
        good &= check_statsmodels([row for row in rows if row["task"] == HELD_OUT])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
