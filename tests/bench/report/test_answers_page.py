"""The page's table of all answers in a real browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.report.report_support import HOSTILE, make_report, some_pairs
from tests.browser import Browser, look_as, running_browser, serious_findings
from tests.support import ModulePaths
from tuneserve.bench.compare.pairs import Answer, Pair, Response
from tuneserve.bench.report.pages import write_report
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings

PROMPTS = 700
KEYS = {
    "ArrowDown": 40, "ArrowUp": 38, "End": 35, "Enter": 13, "Escape": 27, "Home": 36,
    "PageDown": 34, "PageUp": 33, "Tab": 9,
}  # fmt: skip


def given(text: str, score: float, ended: str = "stop") -> Answer:
    return Answer(text, "", False, score, ended, 3, 2.0, 2)


def row(number: int) -> Pair:
    """Base is right in every second, tuned in two of three; one has every oddity."""
    reference = ("yes", "no")[number % 2]
    base = given(reference, 1.0) if number % 2 else given("perhaps", 0.0, "length")
    tuned = given(reference, 1.0) if number % 3 else given("", 0.0)
    example = Example.of_turn(f"p{number}", f"Is {number} odd?", reference, group=f"g{number % 5}")
    return Pair(example, base, tuned, {"endpoint": Response("no", "", False, 0.0, "stop", 1)})


def special() -> list[Pair]:
    """Prompts to be searched for."""
    texts = [
        "Die Straße ist lang", "ΟΔΥΣΣΕΥΣ", "法国的首都是巴黎", HOSTILE, "=SUM(A1)",
        " \n=SUM(B1)", "\uff1dSUM(C1)", "İstanbul", "ılık ISPARTA",
        "Η οδός Ερμού, Πλατεία Καΐρη", "GROẞ und klein", "Donau\u00addampf\u200bschiff",
        "They don’t know", "Item 9871 is odd", "Item 871 is even", "\u202eevil",
    ]  # fmt: skip
    pairs = [
        replace(row(1), example=Example.of_turn(f"s{place}", text, "no"))
        for place, text in enumerate(texts)
    ]
    pairs[2] = replace(pairs[2], tuned=given("首都是里昂", 0.0))
    return pairs


@pytest.fixture(scope="module")
def bench(module_paths: ModulePaths) -> Path:
    pairs = [*map(row, range(PROMPTS)), *special()]
    report = make_report(pairs, some_pairs("general/"), BenchSettings(bootstrap=1000))
    folder = module_paths.mktemp("page") / "bench"
    write_report(report, folder)
    return folder


@pytest.fixture(scope="module")
def page(bench: Path, module_paths: ModulePaths) -> Iterator[Browser]:
    with running_browser(module_paths.mktemp("profile")) as browser:
        browser.call("Page.enable")
        browser.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="window.wrong = []; addEventListener('error', e => wrong.push(e.message));"
            "addEventListener('securitypolicyviolation', e => wrong.push(e.violatedDirective));"
            "window.alert = text => wrong.push(text);",
        )
        browser.call("Page.navigate", url=(bench / "report.html").as_uri())
        browser.wait("document.documentElement?.classList.contains('interactive')")
        yield browser


@pytest.fixture(autouse=True)
def fresh(page: Browser) -> None:
    page.run("form.reset(); field('task').value = '0'; chosen.cell = null; apply()")


def press(page: Browser, key: str) -> None:
    code = KEYS[key]
    # Without its text Enter is no key press to an element.
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        page.call(
            "Input.dispatchKeyEvent",
            type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text,
        )  # fmt: skip


def choose(page: Browser, **fields: str) -> list[str]:
    """Set filters; the ids that are left."""
    for name, value in fields.items():
        page.run(f"field({json.dumps(name)}).value = {json.dumps(value)}")
    page.run("form.dispatchEvent(new Event('input'))")
    return ids(page)


def ids(page: Browser) -> list[str]:
    found: list[str] = json.loads(page.run("JSON.stringify(shown.map(row => figures.id[row]))"))
    return found


def test_filters_count_what_python_counts(page: Browser) -> None:
    own = [*map(row, range(PROMPTS)), *special()]
    by_outcome = {
        "won": [pair.example.id for pair in own if pair.won],
        "lost": [pair.example.id for pair in own if pair.lost],
        "right": [p.example.id for p in own if p.base.score == p.tuned.score == 1],
        "wrong": [p.example.id for p in own if p.base.score == p.tuned.score == 0],
    }
    for outcome, expected in by_outcome.items():
        assert choose(page, outcome=outcome) == expected
    every = {step: [f"p{number}" for number in range(0, PROMPTS, step)] for step in (2, 3)}
    assert choose(page, outcome="all", ending="cut", who="0") == every[2]
    assert choose(page, ending="empty", who="") == every[3]
    assert choose(page, ending="", group="2") == [f"p{n}" for n in range(2, PROMPTS, 5)]
    assert len(choose(page, group="", task="")) == len(own) + 60
    # The endpoint is compared like the two others; it was not asked the general questions.
    assert len(choose(page, pair="2,1", outcome="lost")) == len([p for p in own if p.tuned.score])


def test_search_knows_no_case_in_any_script(page: Browser) -> None:
    found = {
        "STRASSE": "s0", "straße lang": "s0", '"ist lang"': "s0", "οδυσσευς": "s1",
        "οδυσσευσ": "s1", "首都": "s2", "</ARTICLE>": "s3", "sum(a": "s4", "istanbul": "s7",
        "İSTANBUL": "s7", "i\u0307stanbul": "s7", "Isparta": "s8", "ΟΔΟΣ": "s9",
        "groß": "s10", "GROẞ": "s10", "gross": "s10", "donaudampfschiff": "s11",
        "dampf\u00adschiff": "s11", "don't": "s12", "DON‘T": "s12", "871": "s14",
        "item 987": "s13", "evil": "s15", "οδος": "s9",
        "ΟΔΌΣ": "s9", "καιρη ερμου": "s9", "ΚΑΪΡΗ": "s9",
    }  # fmt: skip
    for typed, name in found.items():
        assert choose(page, typed=typed) == [name]
    assert page.run("document.getElementById('none').hidden") is True  # of the last search
    choose(page, typed="nowhere to be found")
    assert page.run("document.getElementById('none').hidden") is False


@pytest.mark.parametrize(
    ("typed", "marked"),
    [
        ("STRASSE", ["Straße"]), ("strasse IST", ["Straße", "ist"]), ("ΟΔΟΣ", ["οδός"]),
        ('"οδος ερμου"', ["οδός Ερμού"]), ("καιρη", ["Καΐρη"]), ("sum(C1)", ["SUM(C1)"]),
        ("istanbul", ["İstanbul"]), ("\uff29sparta", ["ISPARTA"]), ("首都", ["首都", "首都"]),
        ("grosS", ["GROẞ"]), ("dampfschiff", ["dampf\u200bschiff"]), ("don't", ["don’t"]),
        ("871", ["871"]), ("won", []), ("ß ist", ["ß", "ist"]), ("a+b", []), ('""', None),
    ],
)  # fmt: skip
def test_what_was_searched_for_is_marked_as_it_is_found(
    page: Browser, typed: str, marked: list[str] | None
) -> None:
    choose(page, typed=typed)
    script = "JSON.stringify([...(CSS.highlights.get('found') ?? [])].map(String))"
    found = json.loads(page.run(script))
    if marked is None:  # nothing is searched for
        assert page.run("CSS.highlights.has('found')") is False
    else:
        assert sorted(found) == sorted(marked)


def test_what_no_reader_sees_is_not_searched(page: Browser) -> None:
    assert choose(page, typed="p17") == []  # an id
    assert choose(page, typed="g3") == []  # a group
    assert choose(page, typed="is 17") == ["p17", *(f"p{n}" for n in range(170, 180))]
    assert choose(page, typed='"is 17 odd"') == ["p17"]


def test_order(page: Browser) -> None:
    first = choose(page, order="difference")
    assert [row(int(name[1:])).lost for name in first[:3]] == [True] * 3
    page.run("field('descending').click()")
    assert row(int(ids(page)[0][1:])).won
    assert choose(page, order="prompt")[0].startswith(("s", "p69"))  # numbers by their value
    page.run("field('descending').click()")


def test_the_keyboard_alone(page: Browser) -> None:
    page.run("field('typed').focus()")
    order = []
    for _ in range(14):
        press(page, "Tab")
        order.append(page.run("document.activeElement.name || document.activeElement.id"))
    assert order[order.index("csv") :][:3] == ["csv", "jsonl", "list"]
    page.run("list.focus()")
    press(page, "ArrowDown")
    press(page, "ArrowDown")
    active = "document.getElementById(list.getAttribute('aria-activedescendant'))"
    assert page.run(f"{active}.getAttribute('aria-rowindex')") == "4"  # the heads are row 1
    press(page, "Enter")
    assert page.run(f"{active}.getAttribute('aria-expanded')") == "true"
    assert "Is 2 odd?" in page.run("document.querySelector('.detail').innerText")
    press(page, "ArrowDown")  # reads on
    assert "Is 3 odd?" in page.run("document.querySelector('.detail').innerText")
    press(page, "Tab")
    assert page.run("document.querySelector('.detail').contains(document.activeElement)")
    press(page, "Escape")
    assert page.run("document.querySelector('.detail')") is None
    assert page.run("document.activeElement.id") == "list"
    press(page, "End")
    assert page.run(f"{active}.innerText").count("evil") == 1
    assert page.run("canvas.querySelectorAll('[role=row]').length") < 40
    press(page, "Home")
    assert page.run("[active, list.scrollTop]") == [0, 0]
    # A page on: the first row that was not seen whole comes to the top.
    whole = page.run("Math.floor((list.clientHeight - head.offsetHeight) / rowHeight)")
    press(page, "PageDown")
    assert page.run("active") == whole
    assert page.run("list.scrollTop / rowHeight") == pytest.approx(whole, abs=0.1)
    press(page, "PageUp")
    assert page.run("[active, list.scrollTop]") == [0, 0]


@pytest.mark.parametrize(
    ("reference", "text", "pieces"),
    [
        ("a b c", "a x c", [["same", "a "], ["less", "b"], ["more", "x"], ["same", " c"]]),
        ("a b", "a b", [["same", "a b"]]),
        ("", "new", [["more", "new"]]),
        ("old words", "", [["less", "old words"]]),
        ("首都是巴黎", "首都是里昂", [["same", "首都是"], ["less", "巴黎"], ["more", "里昂"]]),
        ("a b c d", "x y c d", [["less", "a b"], ["more", "x y"], ["same", " c d"]]),
    ],
)
def test_word_difference(page: Browser, reference: str, text: str, pieces: list[Any]) -> None:
    script = f"JSON.stringify(difference({json.dumps(reference)}, {json.dumps(text)}))"
    assert json.loads(page.run(script)) == pieces


def test_downloads_are_the_rows(page: Browser, bench: Path) -> None:
    written = [json.loads(line) for line in (bench / "answers.jsonl").open(encoding="utf-8")]
    choose(page, task="")
    saved = [json.loads(line) for line in page.run("asJsonLines(shown)").splitlines()]
    for one, other in zip(saved, written, strict=True):
        for answer in (other["base"], other["tuned"], *other["others"].values()):
            if not answer["probabilities"]:
                del answer["probabilities"]
        assert one == other
    choose(page, task="0", typed="=SUM(A1)")
    head, line, end = page.run("asCsv(shown)").split("\r\n")
    assert head.startswith('\ufeff"task","id","group"')
    assert '"\'=SUM(A1)"' in line  # no formula to a spreadsheet
    assert end == ""
    choose(page, task="", typed="SUM(")
    text = page.run("asCsv(shown)")
    for formula in special()[4:7]:
        assert f'"\'{formula.example.prompt[-1]["content"]}"' in text


def test_a_cell_of_the_confusion_matrix_shows_its_prompts(page: Browser) -> None:
    page.run(
        "document.querySelector('[data-model=base][data-reference=yes][data-answer=\"\"]').click()"
    )
    assert ids(page) == [f"p{n}" for n in range(0, PROMPTS, 2)]
    assert "base says none of the classes" in page.run("document.getElementById('cell').innerText")


def test_nothing_of_the_data_runs_or_loads(page: Browser) -> None:
    choose(page, typed="article")
    page.run("toggle(0)")
    assert HOSTILE in page.run("document.querySelector('.detail').innerText")
    tried = "fetch('data:text/plain,x').then(() => 'loaded', () => 'refused')"
    assert page.run(tried) == "refused"
    assert json.loads(page.run("JSON.stringify(wrong)")) == ["connect-src"]


def test_an_open_row_stays_in_sight_when_the_window_changes(page: Browser) -> None:
    inside = (
        "(box => box.top >= head.getBoundingClientRect().bottom - 1 &&"
        " box.bottom <= list.getBoundingClientRect().bottom + 1)"
        "(document.getElementById(list.getAttribute('aria-activedescendant'))"
        ".getBoundingClientRect())"
    )
    frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    try:
        for place in (5, 300, 690):
            for width in (1280, 400, 900):
                page.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=800, deviceScaleFactor=1, mobile=False,
                )  # fmt: skip
                page.run(f"{frames}.then(() => {frames})")
                if width == 1280:
                    page.run(f"close(); activate({place}); toggle({place})")
                assert page.run("list.getAttribute('aria-activedescendant')") == f"row-{place}"
                assert page.run(inside), (place, width)
                assert page.run("open.height === open.element.offsetHeight")
        # What is scrolled away stays so, and is still there for who can't see.
        page.run("list.scrollTop = 0")
        page.run(f"{frames}.then(() => {frames})")
        assert page.run("document.getElementById(list.getAttribute('aria-activedescendant')).id")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=1280, height=800, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        page.run(f"{frames}.then(() => {frames})")
        assert page.run("list.scrollTop") == 0
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_paper_and_small_screens(page: Browser) -> None:
    pdf = base64.b64decode(page.call("Page.printToPDF")["data"])
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 3 <= pages < 12
    try:
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=400, height=800, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_for_everybody(page: Browser, axe: str) -> None:
    """Nothing that axe-core calls serious, with an answer unfolded and a cell chosen."""
    page.run("document.querySelector('[data-model=base][data-reference=yes]').click(); toggle(0)")
    page.run("for (const one of document.querySelectorAll('details')) one.open = true")
    try:
        for width in (400, 1100):
            for scheme in ("light", "dark"):
                look_as(page, width, scheme)
                assert serious_findings(page, axe) == [], (width, scheme)
    finally:
        page.call("Emulation.setEmulatedMedia", features=[])
        page.call("Emulation.clearDeviceMetricsOverride")
