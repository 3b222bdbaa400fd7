"""Every figure of a report, computed again from answers.jsonl by scipy and plain loops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recomputed import Row, holm, recomputed, tango

from tests.bench.report.report_support import contender
from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.forgetting import compare_elsewhere, judge_forgetting
from tuneserve.bench.compare.pairs import HELD_OUT, Answer, Pair
from tuneserve.bench.compare.results import Provenance, Report
from tuneserve.bench.report.pages import write_report
from tuneserve.bench.stats import proportions
from tuneserve.bench.tasks.tasks import Task
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings

SETTINGS = BenchSettings(bootstrap=1000)
GENERAL = "General questions"


def some_pairs(prefix: str, scores: Sequence[float], per_source: int, seed: int) -> list[Pair]:
    """60 prompts in three groups; the tuned model scores better on the whole."""
    draw = np.random.default_rng(seed)

    def answered(shares: Sequence[float]) -> Answer:
        tokens = int(draw.integers(1, 9))
        nll = float(tokens * draw.lognormal(0.0, 0.8))
        return Answer("a", "", False, float(draw.choice(scores, p=shares)), "stop", 3, nll, tokens)

    many = len(scores)
    low = np.linspace(2, 1, many) / np.linspace(2, 1, many).sum()
    pairs = []
    for place in range(60):
        base, tuned = answered(low), answered(low[::-1])
        source = None if per_source == 1 else f"{prefix}{place // per_source}"
        pairs.append(
            Pair(
                replace(
                    Example.of_turn(f"{prefix}{place}", "?", "a", group=f"g{place % 3}"),
                    source=source,
                ),
                base,
                replace(tuned, reference_tokens=base.reference_tokens),
            )
        )
    return pairs


def written(folder: Path, pairs: list[Pair], general: list[Pair]) -> tuple[list[Row], Row, str]:
    """answers.jsonl, report.json and report.md of a report made of these answers."""
    tasks, texts = compare_elsewhere([(Task(GENERAL, "", [], [], 9), general)], [], SETTINGS)
    accuracy = analysis.compare_accuracy(pairs, SETTINGS)
    report = Report(
        run="x", created="2026-01-02T03:04:05+00:00", task="json", confidence=0.95,
        verdict=analysis.judge(accuracy, 0.95), accuracy=accuracy,
        perplexity=analysis.compare_perplexity(pairs, SETTINGS),
        groups=analysis.compare_groups(pairs, SETTINGS), gap=None, others=[], contamination=None,
        forgetting=judge_forgetting(tasks, texts, SETTINGS), tasks=tasks, texts=texts, curves=None,
        load=[], server=None, ladder=[], base=contender("base"), tuned=contender("tuned"),
        conditions={}, pairs=pairs,
        provenance=Provenance("tuneserve bench", "demo", "1", {"bench": {}}, {}, "", ""),
    )  # fmt: skip
    write_report(report, folder / "bench")
    rows = [json.loads(line) for line in (folder / "bench" / "answers.jsonl").open()]
    return (
        rows,
        json.loads((folder / "bench" / "report.json").read_text()),
        (folder / "bench" / "report.md").read_text(),
    )


@pytest.mark.parametrize(
    ("scores", "per_source"),
    [((0.0, 1.0), 1), ((0.0, 0.25, 0.5, 1.0), 1), ((0.0, 0.25, 1.0), 5), ((0.0, 1.0), 5)],
    ids=["right or wrong", "graded", "graded, sources", "right or wrong, sources"],
)
def test_figures_are_those_of_the_answers(
    tmp_path: Path, scores: tuple[float, ...], per_source: int
) -> None:
    own = some_pairs("p", scores, per_source, 1)
    general = some_pairs("general/", (0.0, 1.0), 1, 2)
    rows, report, page = written(tmp_path, own, general)
    parts = {"All prompts": [row for row in rows if row["task"] == HELD_OUT]}
    for name in ("g0", "g1", "g2"):
        parts[name] = [row for row in parts["All prompts"] if row["group"] == name]
    again = {name: recomputed(part) for name, part in parts.items()}
    p_values = holm([again[name].p for name in ("g0", "g1", "g2")])
    shown = dict(zip(parts, [again["All prompts"].p, *p_values], strict=True))
    for name, found in again.items():
        assert found.table_row(name, shown[name]) in page
        assert found.perplexity_row(name) in page
    smallest = again["All prompts"].smallest
    assert f"A true difference of {100 * smallest:.1f} points would be shown 4 times in 5." in page
    kinds, share = ("sources", "22.1 %") if per_source > 1 else ("prompts", "4.9 %")
    assert f"Kinds of {kinds} that make up less than {share} of all may be seen in none" in page
    elsewhere = recomputed([row for row in rows if row["task"] == GENERAL])
    assert elsewhere.table_row("All", elsewhere.p) in page
    # The file's figures agree to far more digits than are printed.
    for mine, theirs in (
        (again["All prompts"].difference, report["accuracy"]["difference"]),
        (again["All prompts"].ratio, report["perplexity"]["ratio"]),
    ):
        assert (mine.value, mine.low, mine.high) == pytest.approx(
            (theirs["value"], theirs["low"], theirs["high"]), abs=1e-7
        )


@pytest.mark.parametrize(
    ("won", "lost", "pairs"),
    [(13, 0, 13), (0, 13, 13), (0, 5, 5), (1, 0, 1), (0, 0, 5), (13, 0, 14), (4.7, 0.0, 4.7)],
)
def test_the_limits_where_all_are_won_or_lost_are_the_reports(
    won: float, lost: float, pairs: float
) -> None:
    low, high = tango(won, lost, pairs)
    reports = [float(end) for end in proportions.tango(won, lost, pairs)]
    assert [low, high] == pytest.approx(reports, abs=1e-9)
    assert (high == 1.0) == (won == pairs)
    assert (low == -1.0) == (lost == pairs)


@pytest.mark.parametrize("per_source", [1, 5])
def test_groups_that_are_all_won_or_lost_are_recomputed(tmp_path: Path, per_source: int) -> None:
    always = {"g0": (1.0, 0.0), "g1": (0.0, 1.0), "g2": (1.0, 1.0)}  # base, tuned
    pairs = []
    for pair in some_pairs("p", (0.0, 1.0), per_source, 1):
        base, tuned = always[str(pair.example.group)]
        pairs.append(
            replace(
                pair, base=replace(pair.base, score=base), tuned=replace(pair.tuned, score=tuned)
            )
        )
    rows, _, page = written(tmp_path, pairs, some_pairs("general/", (0.0, 1.0), 1, 2))
    names = ("g0", "g1", "g2")
    own = [row for row in rows if row["task"] == HELD_OUT]
    again = [recomputed([row for row in own if row["group"] == name]) for name in names]
    for name, found, p in zip(names, again, holm([each.p for each in again]), strict=True):
        assert found.table_row(name, p) in page
