"""The pages: well-formed, self-contained, nothing from a model gets out of its place."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from scipy import stats

from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.figures import (
    headline,
    interval,
    markdown_cell,
    number,
    p_value,
    points,
    points_interval,
    rate,
)
from tuneserve.bench.compare.forgetting import (
    TextLosses,
    compare_elsewhere,
    judge_forgetting,
)
from tuneserve.bench.compare.report_file import as_json, read_report
from tuneserve.bench.compare.results import (
    HELD_OUT,
    Answer,
    AnswerCounts,
    Contamination,
    ContenderSummary,
    KeptGain,
    Pair,
    Provenance,
    Report,
    SweepResult,
)
from tuneserve.bench.measure.clients import Load, ServerStart
from tuneserve.bench.measure.perplexity import MeanError
from tuneserve.bench.measure.speed import Rate, Speed
from tuneserve.bench.report.pages import render, write_report
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.bench.tasks.tasks import Task
from tuneserve.charts import LossCurves, loss_chart
from tuneserve.chat.examples import Example
from tuneserve.cli.bench import show
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings

VOID = {"meta", "input", "br"}
HOSTILE = '</article><script>alert(1)</script> & | "quoted" {{ 1 }} `x`'


def contender(name: str) -> ContenderSummary:
    rate = Rate(100.0, 2.0, 64, 5)
    counts = AnswerCounts(0, 1, 2, 3.5)
    return ContenderSummary(
        name, f"{name}.gguf", 123_456_789, "0" * 64, "Q4_K_M", Speed(rate, rate), 0.5, counts
    )


def some_pairs(prefix: str) -> list[Pair]:
    return [
        Pair(
            Example.of_turn(f"{prefix}{n}", HOSTILE, "a", group=f"group {n % 3}"),
            base=Answer(HOSTILE, "", False, float(n % 4 == 0), "stop", 3, 2.0 + n % 5, 3),
            tuned=Answer("a", "", False, float(n % 4 != 1), "stop", 3, 1.0 + n % 3, 3),
        )
        for n in range(60)
    ]


def some_points() -> list[SweepResult]:
    top = SweepResult(
        "F16", "f16", 270_000_000, 16.0, MeanError(12.3, 0.2), None, None,
        Estimate(0.7, 0.6, 0.8), None, None,
    )  # fmt: skip
    lower = replace(
        top, name="Q4_K_M", bits_per_weight=4.8, kld=MeanError(0.09, 0.004),
        same_top=MeanError(0.9, 0.01), difference=Estimate(-0.01, -0.04, 0.02), adjusted_p=0.4,
    )  # fmt: skip
    return [top, lower]


@pytest.fixture(scope="module")
def report() -> Report:
    """A report with every section."""
    settings = BenchSettings(bootstrap=1000)
    pairs = some_pairs("p")
    losses = TextLosses(
        f"{HOSTILE}.txt", "chunks", [500.0 + n for n in range(8)], [600.0 - n for n in range(8)],
        [255] * 8, [None] * 8,
    )  # fmt: skip
    general = Task("General questions", "60 questions", [], [], 1), some_pairs("general/")
    tasks, texts = compare_elsewhere([general], [losses], settings)
    accuracy = analysis.compare_accuracy(pairs, settings)
    rate = Rate(120.0, 3.0, 96, 3)
    return Report(
        run="x",
        gain=KeptGain(0.97, 0.95, 0.99, 0.93, "97.0% of the gain is kept"),
        created="2026-01-02T03:04:05+00:00",
        task="exact",
        confidence=0.95,
        verdict=analysis.judge(accuracy, 0.95),
        accuracy=accuracy,
        perplexity=analysis.compare_perplexity(pairs, settings),
        groups=analysis.compare_groups(pairs, settings),
        gap=analysis.compare_gap(pairs, settings),
        others=[],
        contamination=Contamination(8, ["p1"], Estimate(0.1, 0.0, 0.2)),
        forgetting=judge_forgetting(tasks, texts, settings),
        tasks=tasks,
        texts=texts,
        curves=LossCurves(
            [(n, 3.0 / n) for n in range(1, 50)], [(25, 0.4), (49, 0.3)], [(0, 1.0), (49, 1.5)], 49
        ),
        load=[Load(clients, rate, 0.2, 0.5, 6) for clients in (1, 4)],
        server=ServerStart(2.5, 400_000_000, 0),
        ladder=some_points(),
        base=contender("base"),
        tuned=contender("tuned"),
        conditions={"Sampling": "greedy"},
        provenance=Provenance(
            command="tuneserve bench --run x",
            base_model="demo",
            test_sha256="1" * 64,
            settings={"bench": {"task": "exact", "clients": [1, 4], "texts": []}},
            versions={"python": "3.11"},
            platform="Linux",
            processor="CPU",
        ),
        pairs=pairs,
    )


class Balance(HTMLParser):
    """Collects open tags, attribute values that could load something, and texts of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_balanced_self_contained_and_escaped(report: Report) -> None:
    page = render(report, "report.html.jinja")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.scripts == 1  # our own; the hostile answers' are text
    assert all(place.startswith("#") for place in parser.references)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert report.curves is not None
    assert loss_chart(report.curves) in page
    general = report.tasks[0].accuracy
    assert page.count('<article class="flip won"') == report.accuracy.won + general.won
    assert page.count('<article class="flip lost"') == report.accuracy.lost + general.lost
    for sentence in (report.verdict.sentence, report.forgetting.sentence):
        for part in headline(sentence):
            assert str(escape(part)) in page


def test_markdown_tables_keep_their_columns(report: Report) -> None:
    page = render(report, "report.md.jinja")
    columns = None
    for line in page.splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        count = len(re.findall(r"(?<!\\)\|", line))
        columns = columns or count
        assert count == columns, line
    assert report.verdict.sentence in page
    assert "<script>" not in page


def test_written_files_agree(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "bench")
    assert sorted(path.name for path in (tmp_path / "bench").iterdir()) == [
        "answers.jsonl",
        "report.html",
        "report.json",
        "report.md",
    ]
    text = (tmp_path / "bench" / "report.json").read_text()
    data = json.loads(text)
    assert data == json.loads(json.dumps(as_json(report)))
    # Read back, every section is told as it was written, digit for digit.
    again = as_json(read_report(RunDirectory(tmp_path)))
    assert json.dumps(again, indent=2, ensure_ascii=False) + "\n" == text
    assert data["verdict"]["outcome"] == report.verdict.outcome
    assert data["gain"]["share"] == 0.97
    for name in ("report.md", "report.html"):
        assert "97.0% of the gain is kept" in (tmp_path / "bench" / name).read_text()
    rows = [json.loads(line) for line in (tmp_path / "bench" / "answers.jsonl").open()]
    own = [row for row in rows if row["task"] == HELD_OUT]
    assert len(rows) == 2 * len(own)
    right = sum(row["tuned"]["score"] for row in own)
    assert right / len(own) == pytest.approx(data["accuracy"]["tuned"]["value"])


@given(st.text())
def test_a_markdown_cell_is_one_cell(text: str) -> None:
    cell = markdown_cell(text)
    assert "\n" not in cell
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", cell)


def test_the_terminal_table_fits_80_columns(
    report: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    large = replace(report.perplexity, base=Estimate(42_290.0, 1.0, 2.0))
    show(replace(report, perplexity=large))
    printed = capsys.readouterr().err
    first = next(line for line in printed.splitlines() if line.strip().startswith("All"))
    assert len(first) <= 80
    assert f"({points_interval(report.accuracy.difference)})" in first
    assert "42,290 → " in first
    assert report.verdict.sentence in printed


def test_figures_as_text() -> None:
    assert interval(Estimate(0.5, why_not="2 sources")) == "no interval: 2 sources"
    assert [number(value) for value in (4.2294, 42_294.4, 4.2294e9)] == [
        "4.229",
        "42,294",
        "4.229e+09",
    ]
    assert [p_value(p) for p in (0.0005, 0.0012, 0.5)] == ["< 0.001", "0.001", "0.500"]
    times = [98.0, 99.0, 103.0]
    low, high = stats.t.interval(0.95, 2, np.mean(times), stats.sem(times))
    shown = rate(Rate(100.0, float(np.std(times, ddof=1)), 64, 3))
    assert shown == f"100.0 ± {(high - low) / 2:.1f}"
    assert interval(Estimate(0.794, 0.752, 0.83)) == "75.2 to 83.0"
    assert points_interval(Estimate(0.042, -0.003, 0.087)) == "−0.3 to +8.7"
    assert points(0.042) == "+4.2"
    assert headline("No difference shown: the tuned model: x") == (
        "No difference shown",
        "The tuned model: x",
    )
