"""The pages: well-formed, self-contained, nothing from a model gets out of its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from scipy import stats

from tests.bench.report.report_support import HOSTILE, make_report, some_pairs
from tuneserve.bench.compare import analysis, figures
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
from tuneserve.bench.compare.pairs import HELD_OUT, Answer, Pair
from tuneserve.bench.compare.report_file import as_json, read_report
from tuneserve.bench.compare.results import Report, Verdict
from tuneserve.bench.measure.speed import Rate
from tuneserve.bench.report import charts
from tuneserve.bench.report.gates import failed_gates, read_gates, shown_worse
from tuneserve.bench.report.junit import write_junit
from tuneserve.bench.report.page_data import tasks_of
from tuneserve.bench.report.pages import SHOWN_FLIPS, render, write_for_pull_request, write_report
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.charts import loss_chart
from tuneserve.chat.examples import Example
from tuneserve.cli.bench import show
from tuneserve.errors import UsageError
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings

VOID = {"meta", "input", "br"}


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(some_pairs("p"), some_pairs("general/"))


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
        self.scripts += tag == "script" and not attrs  # data has a type
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def crowd() -> Report:
    """With further models, one of a hostile name, and choices with probabilities."""

    def chosen(text: str, sure: float, right: bool) -> Answer:
        probabilities = {text: sure, "other": 1 - sure}
        return Answer(
            text, "", False, float(right), "chosen", 0, 1.0, 1, probabilities=probabilities
        )

    pairs = [
        Pair(
            Example.of_turn(f"c{n}", "Which?", ("yes", "no")[n % 2]),
            base=chosen("yes", 0.6, n % 2 == 0),
            tuned=chosen(("yes", "no")[n % 2], 0.9, True),
            others={name: chosen("no", 0.55, n % 2 == 1) for name in (HOSTILE, "other-run")},
        )
        for n in range(30)
    ]
    return make_report(pairs, some_pairs("general/"), BenchSettings(task="choice", bootstrap=1000))


def test_further_models_and_classes_are_shown(crowd: Report) -> None:
    page = render(crowd, "report.html.jinja")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.scripts == 1
    assert crowd.ranking is not None
    assert crowd.ranking.ranked[0].name == "tuned"
    assert str(escape(crowd.ranking.sentence)) in page
    assert crowd.classes is not None
    assert page.count('<table class="confusion">') == len(crowd.classes.models) == 4
    assert [model.ece for model in crowd.calibration[:2]] == pytest.approx([0.1, 0.1])
    text = render(crowd, "report.md.jinja")
    assert "Expected calibration error: base 10.0 %, tuned 10.0 %" in text
    assert_tables_keep_their_columns(text)


def test_which_intervals_hold_for_the_kinds_seen_alone(report: Report) -> None:
    prompts = report.accuracy.prompts
    for clusters, graded, said in (
        (prompts, False, "intervals of perplexities"),
        (prompts, True, "intervals of graded scores and perplexities"),
        (prompts - 1, False, "intervals of scores and perplexities"),
    ):
        accuracy = replace(report.accuracy, clusters=clusters, graded=graded)
        assert said in figures.unseen_said(replace(report, accuracy=accuracy))


def test_how_little_few_chunks_tell_stands_beside_them(report: Report) -> None:
    for template in ("report.md.jinja", "report.html.jinja"):
        page = render(report, template)
        assert "A rise or a fall is that of text like the pieces measured" in page
        assert "31.2 % unseen" in page  # of 8 chunks: 1 - 0.05 ** (1 / 8)


def test_a_gain_over_a_group_that_fell_is_not_green(report: Report, tmp_path: Path) -> None:
    def shown(lost: list[str]) -> tuple[str, str]:
        found = replace(
            report,
            verdict=Verdict("better", "The tuned model is better: x.", [], lost),
            forgetting=Verdict("no forgetting shown", "Nothing."),
        )
        write_for_pull_request(tmp_path / "pr.md", found, [])
        return render(found, "report.html.jinja"), (tmp_path / "pr.md").read_text()

    page, comment = shown([])
    assert '<div class="verdict better"><span>Does' in page
    assert "### ✅ x: better" in comment
    page, comment = shown(["de fell"])
    assert '<div class="verdict none"><span>Does' in page
    assert "### ➖ x: better, a group worse" in comment


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
    assert report.accuracy.won > SHOWN_FLIPS
    shown = [
        sum(min(SHOWN_FLIPS, n) for n in each)
        for each in ((report.accuracy.won, general.won), (report.accuracy.lost, general.lost))
    ]
    assert [page.count(f'<article class="flip {kind}"') for kind in ("won", "lost")] == shown
    for sentence in (report.verdict.sentence, report.forgetting.sentence):
        for part in headline(sentence):
            assert str(escape(part)) in page


def test_markdown_tables_keep_their_columns(report: Report) -> None:
    page = render(report, "report.md.jinja")
    assert_tables_keep_their_columns(page)
    assert report.verdict.sentence.replace("<", r"\<") in page
    assert "<script>" not in page


def test_intervals_and_contenders_are_called_what_they_are(report: Report) -> None:
    for template in ("report.md.jinja", "report.html.jinja"):
        assert "mid-p Clopper-Pearson" in render(report, template)
    assert [figures.contender(name) for name in ("tuned", "base-Q4_K_M", "j1")] == [
        "Tuned", "base-Q4_K_M", "j1",
    ]  # fmt: skip


def assert_tables_keep_their_columns(page: str) -> None:
    columns = None
    for line in page.splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        count = len(re.findall(r"(?<!\\)\|", line))
        columns = columns or count
        assert count == columns, line


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
        assert "97.0 % of the gain is kept" in (tmp_path / "bench" / name).read_text()
    rows = [json.loads(line) for line in (tmp_path / "bench" / "answers.jsonl").open()]
    own = [row for row in rows if row["task"] == HELD_OUT]
    assert len(rows) == 2 * len(own)
    right = sum(row["tuned"]["score"] for row in own)
    assert right / len(own) == pytest.approx(data["accuracy"]["tuned"]["value"])


def test_the_page_runs_its_own_script_alone_and_reaches_nothing(report: Report) -> None:
    page = render(report, "report.html.jinja")
    script = page[page.rindex("<script>") + len("<script>") : page.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', page)
    assert found
    policy = unescape(found.group(1))
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_data_in_the_page_is_the_answers(report: Report) -> None:
    page = render(report, "report.html.jinja")
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    figures, *texts = map(json.loads, blocks)
    rows = [row for block in texts for row in block]
    assert figures["id"] == [pair.example.id for _, pairs in tasks_of(report) for pair in pairs]
    assert len(rows) == len(figures["id"])
    place = figures["id"].index("general/7")
    prompt, reference, answers = rows[place]
    assert [message["content"] for message in prompt] == [HOSTILE]
    assert reference == "a"
    assert answers == [[HOSTILE, ""], ["a", ""]]
    tuned = figures["contenders"][1]
    assert tuned["score"][place] == report.tasks[0].pairs[7].tuned.score
    assert figures["groups"]["names"][figures["groups"]["rows"][place]] == "group 1"


@given(st.text())
def test_a_markdown_cell_is_one_cell(text: str) -> None:
    cell = markdown_cell(text)
    assert "\n" not in cell
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", cell)


def test_pages_say_why_there_is_no_interval(report: Report) -> None:
    """In tables, plots and the verdict; nothing of it is drawn as an interval of no width."""
    few = Estimate(0.1, why_not="2 sources")
    accuracy = replace(report.accuracy, base=few, tuned=few, difference=few)
    accuracy = replace(accuracy, clusters=2, smallest_detectable=None)
    ratio = Estimate(1.1, why_not="2 sources")
    perplexity = replace(report.perplexity, base=ratio, tuned=ratio, ratio=ratio)
    verdict = analysis.judge(accuracy, 0.95)
    bare = replace(report, accuracy=accuracy, perplexity=perplexity, groups=[], verdict=verdict)
    assert "no interval: 2 sources" in verdict.sentence
    assert "With 2 sources no difference can be shown" in verdict.sentence
    for template in ("report.html.jinja", "report.md.jinja"):
        page = render(bare, template)
        assert page.count("no interval: 2 sources") >= 6
        assert "None" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "whisker" not in str(charts.difference_plot(charts.rows_of(bare)).rows[0][1])


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
    # Shown at 95 %, so that it does not read as the level itself.
    assert [p_value(p) for p in (0.0498, 0.05, 0.0502)] == ["0.0498", "0.050", "0.050"]
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


GATES = ("accuracy=0.4", "accuracy=0.9", "gain=-0.1", "general=1")


def test_gates_fail_below_their_least_value(report: Report, tmp_path: Path) -> None:
    gates = read_gates(BenchSettings(fail_below=GATES))
    accuracy = report.accuracy.tuned.value
    assert failed_gates(report, gates) == [
        f"accuracy {accuracy:.4g} is below 0.9",
        f"general {report.tasks[0].accuracy.tuned.value:.4g} is below 1",
    ]
    tuned = replace(report.accuracy.tuned, value=0.775281)
    near = replace(report, accuracy=replace(report.accuracy, tuned=tuned))
    (least,) = read_gates(BenchSettings(fail_below=("accuracy=0.7753",)))
    assert failed_gates(near, [least]) == ["accuracy 0.77528 is below 0.7753"]
    write_junit(tmp_path / "junit.xml", replace(report, run="x\x00<&>"), gates)
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert suite.get("name") == "tuneserve bench x\ufffd<&>"
    assert (suite.get("tests"), len(suite)) == ("12", 12)
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed[-2:] == ["accuracy at least 0.9", "general at least 1"]
    assert suite.get("failures") == str(len(failed))
    assert suite.get("skipped") == "0"
    nothing = replace(report, forgetting=Verdict("not measured", "Not measured."))
    write_junit(tmp_path / "junit.xml", nothing, gates)
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    skipped = [case.get("name") for case in suite if case.find("skipped") is not None]
    assert (skipped, suite.get("skipped")) == (["nothing shown to be forgotten"], "1")
    write_for_pull_request(tmp_path / "table.md", report, gates)
    text = (tmp_path / "table.md").read_text()
    heading = next(line for line in text.splitlines() if line.startswith("###"))
    assert heading.startswith("### ❌ ")
    assert heading.endswith(", 2 failed")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 1 + len(report.groups) + len(report.tasks)
    assert {row.count("|") for row in rows} == {7}
    assert f"**Failed: accuracy {accuracy:.4g} is below 0.9.**" in text
    # A job that runs again replaces its own files, and no others.
    write_junit(tmp_path / "junit.xml", report, gates)
    write_for_pull_request(tmp_path / "table.md", report, gates)
    with pytest.raises(UsageError, match="is not replaced"):
        write_for_pull_request(tmp_path / "junit.xml", report, gates)
    with pytest.raises(UsageError, match="is not replaced"):
        write_junit(tmp_path / "table.md", report, gates)


def test_a_group_that_got_worse_fails_though_the_whole_did_not(
    report: Report, tmp_path: Path
) -> None:
    """Of 60 prompts group 0 loses all its 20, the others gain as many."""
    asked = [
        replace(
            pair,
            base=replace(pair.base, score=float(place % 3 == 0)),
            tuned=replace(pair.tuned, score=float(place % 3 == 1)),
        )
        for place, pair in enumerate(report.pairs)
    ]
    found = make_report(asked, [replace(pair) for pair in asked])
    assert found.verdict.outcome == "no difference shown"
    worse = shown_worse(found)
    assert [each.partition(" fell from ")[0] for each in worse] == ["group 0"]
    whole = replace(found, verdict=replace(found.verdict, outcome="worse"))
    assert shown_worse(whole) == ["all held-out prompts", *worse]
    assert shown_worse(report) == []
    write_junit(tmp_path / "junit.xml", found, [])
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    failed = {case.get("name"): case.find("failure") for case in suite}
    assert [name for name, failure in failed.items() if failure is not None] == [
        "not shown to be worse: group group 0",
        "nothing shown to be forgotten",
        "not shown to be worse: kind group 0 of General questions",
    ]
    message = failed["not shown to be worse: group group 0"]
    assert message is not None
    assert message.get("message") == worse[0]


@pytest.mark.parametrize(
    "entry", ["accuracy", "accuracy=75", "gain=-2", "trivia=0.5", "accuracy=nan"]
)
def test_a_gate_that_can_not_be_is_refused(entry: str) -> None:
    with pytest.raises(UsageError, match="expected FIGURE=SHARE"):
        read_gates(BenchSettings(fail_below=(entry,)))


@pytest.mark.parametrize(
    ("tasks", "general"),
    [(("a/x.jsonl=exact", "b/x.jsonl=exact"), 8), (("general.jsonl=exact",), 0)],
    ids=["two tasks", "a task called as a figure of ours"],
)
def test_a_gate_of_several_figures_is_refused(tasks: tuple[str, ...], general: int) -> None:
    name = "x" if len(tasks) > 1 else "general"
    settings = BenchSettings(tasks=tasks, general=general, fail_below=(f"{name}=0.5",))
    with pytest.raises(UsageError, match="several figures are called"):
        read_gates(settings)

    assert read_gates(BenchSettings(fail_below=("trivia=0.5",), tasks=("a/trivia.jsonl=exact",)))
