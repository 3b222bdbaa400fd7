"""The page in a real browser, on a running `tuneserve ui`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.browser import (
    Browser,
    look_as,
    low_contrast,
    named_controls,
    press,
    running_browser,
    serious_findings,
)
from tests.support import ModulePaths
from tests.ui.ui_support import RunningUI
from tuneserve.finetune.training.progress import Progress
from tuneserve.finetune.training.progress_file import ProgressFile
from tuneserve.run import RunDirectory

pytestmark = pytest.mark.slow

PREVIEW = (
    "[...document.querySelectorAll('button')]"
    ".find(one => one.textContent === 'Preview the data').click()"
)
HEADING = "document.querySelector('h1')?.textContent"


@pytest.fixture(scope="module")
def browser(module_paths: ModulePaths) -> Iterator[Browser]:
    with running_browser(module_paths.mktemp("profile")) as found:
        found.call("Page.enable")
        found.call("Accessibility.enable")
        yield found


@pytest.fixture
def page(browser: Browser, ui: RunningUI) -> Browser:
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Page.navigate", url="about:blank")
    browser.call("Page.navigate", url=f"{ui.url}#token={ui.token}")
    browser.wait("document.querySelectorAll('tbody tr').length >= 2", 20)
    return browser


def show(page: Browser, view: str, heading: str) -> None:
    page.run(f"location.hash = '#/{view}'")
    page.wait(f"{HEADING} === {json.dumps(heading)}", 20)


def tab_to(page: Browser, condition: str) -> None:
    """Press Tab until what has the focus (`it`) fulfils a condition."""
    for _ in range(200):
        press(page, "Tab")
        if page.run(f"(it => {condition})(document.activeElement)"):
            return
    raise AssertionError(condition)


def test_the_token_leaves_the_address_and_without_one_nothing_starts(
    page: Browser, ui: RunningUI
) -> None:
    assert page.run("location.href") == f"{ui.url}#/"
    assert page.run("document.querySelector('#token-form').hidden")
    page.run("sessionStorage.setItem('tuneserve-token', 'wrong'); location.reload()")
    page.wait("document.querySelector('#token-form')?.hidden === false", 20)
    page.run(f"document.querySelector('#token').value = '{ui.token}'")
    page.run("document.querySelector('#token-form').requestSubmit()")
    page.wait("document.querySelector('#token-form').hidden", 20)


def test_by_keys_from_the_list_to_a_run_and_back(page: Browser) -> None:
    tab_to(page, "it.textContent === 'first' && it.tagName === 'A'")
    press(page, "Enter")
    page.wait(f"{HEADING} === 'first'", 20)
    assert page.run("document.activeElement.tagName") == "H1"
    page.wait("document.querySelector('figure svg') !== null", 20)
    page.run(
        "document.querySelector('[aria-label=\"What was checked\"]').closest('details').open = true"
    )
    text = page.run("document.body.innerText")
    for told in ("trained, converted, benched", "No difference shown", "equal on 155 texts",
                 "data.eval_fraction (default 0.05): 0.2", "Conversion: verified"):  # fmt: skip
        assert told in text
    page.wait("document.querySelector('pre.log').textContent !== ''", 20)
    assert page.run("document.querySelector('pre.log').textContent").endswith("\\x1b[31m<b>&\n")
    tab_to(page, "it.textContent === 'Show the report here'")
    press(page, "Enter")
    page.wait("document.querySelector('iframe') !== null", 20)
    assert page.run("document.querySelector('iframe').contentDocument") is None  # an own origin
    page.run("document.querySelector('nav a').focus()")
    press(page, "Enter")
    page.wait(f"{HEADING} === 'Runs'", 20)


def test_what_is_shown_again_keeps_the_focus(page: Browser, ui: RunningUI) -> None:
    tab_to(page, "it.textContent === 'second' && it.tagName === 'A'")
    (ui.folder / "runs" / "second" / "extra").write_bytes(bytes(1 << 20))
    page.wait("document.body.innerText.includes('1.0 MiB')", 20)
    assert page.run("document.activeElement.textContent") == "second"


def test_a_form_is_filled_by_keys_and_a_refusal_is_shown(page: Browser, ui: RunningUI) -> None:
    show(page, "start/train", "New training")
    fields = page.run("document.querySelectorAll('.field').length")
    assert fields > 60
    page.run("document.querySelector('#run-name').focus()")
    page.call("Input.insertText", text="mine")
    tab_to(page, "it.id === 'data-file'")
    page.run("document.activeElement.select()")
    page.call("Input.insertText", text="none.jsonl")
    tab_to(page, "it.id === 'train-r'")
    page.run("document.activeElement.select()")
    page.call("Input.insertText", text="0")
    press(page, "Enter")  # out of bounds: the browser says so, and nothing is sent
    assert page.run("document.querySelector('#train-r').validity.rangeUnderflow")
    page.run("document.querySelector('#train-r').select()")
    page.call("Input.insertText", text="8")
    press(page, "Enter")
    page.wait(f"{HEADING} === 'mine'", 20)
    page.wait("document.querySelector('.job.refused pre') !== null", 60)
    said = page.run("document.querySelector('.job.refused pre').textContent")
    assert said.startswith("error: none.jsonl: ")
    assert 'file = "none.jsonl"' in (ui.folder / "runs" / "mine.toml").read_text()


def test_an_error_goes_with_the_next_attempt(page: Browser, ui: RunningUI) -> None:
    """Of whatever button; and the page says why examples are left out."""
    (ui.folder / "gaps.csv").write_text(
        "question,answer\n" + "".join(f"What is {n}?,It is {n}.\n" for n in range(40)) + "And?,\n"
    )
    show(page, "start/train", "New training")
    of_form, of_data = "form > pre.bad:not([hidden])", "[aria-live] > pre.bad"
    for selector in (of_form, of_data):
        assert page.run(f"document.querySelector({selector!r})") is None
    page.run("document.querySelector('#recipe').value = 'none.toml'")
    page.run("document.querySelector('[aria-label=\"Fill in from the recipe\"]').click()")
    page.wait(f"document.querySelector({of_form!r}) !== null", 20)
    page.run("document.querySelector('#data-file').value = 'none.jsonl'")
    page.run(PREVIEW)
    page.wait(f"document.querySelector({of_data!r}) !== null", 60)
    assert page.run(f"document.querySelector({of_form!r})") is None
    page.run("document.querySelector('#recipe').value = 'sentiment'")
    page.run("document.querySelector('[aria-label=\"Fill in from the recipe\"]').click()")
    page.wait(f"document.querySelector({of_data!r}) === null", 20)
    page.wait("document.querySelector('#data-file').value === 'data/sentiment.jsonl'", 20)
    page.run("document.querySelector('#data-file').value = 'gaps.csv'")
    page.run("document.querySelector('#data-wordings').value = ''")
    page.run("document.querySelector('#data-general').value = ''")
    page.run("document.querySelector('#data-skip_bad').checked = true")
    page.run(PREVIEW)
    page.wait("document.querySelector('.reason') !== null", 90)
    assert page.run("document.querySelector('.reason').textContent").strip() == (
        "gaps.csv:42: 'answer' is empty: there is nothing to learn from it"
    )


def test_a_training_is_drawn_as_its_file_grows(page: Browser, ui: RunningUI) -> None:
    run = RunDirectory(ui.folder / "runs" / "second")
    record = json.loads(run.record_path.read_text())
    run.record_path.write_text(json.dumps({**record, "stages": {}}))
    progress = Progress(40, epochs=2.0)
    path = run.root / "progress.jsonl"
    with closing(ProgressFile(path, None)) as file:
        progress.losses = {"eval": 2.5, "general": 3.0}
        file.evaluated(progress)
        show(page, "run/second", "second")
        page.wait("document.querySelectorAll('figure .dot').length === 2", 20)
        progress.stepped(20, 1.0, 100)
        progress.loss, progress.losses = 1.5, {"eval": 1.25}
        file.evaluated(progress)
        page.wait("document.querySelectorAll('figure .dot').length === 3", 20)
    assert "20 of 40" in page.run("document.body.innerText")
    assert "1.00 of 2.00" in page.run("document.body.innerText")
    path.unlink()
    run.record_path.write_text(json.dumps(record))


def test_texts_of_a_run_are_no_html(page: Browser, ui: RunningUI) -> None:
    run = RunDirectory(ui.folder / "runs" / "second")
    record = json.loads(run.record_path.read_text())
    hostile = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"
    changed = json.loads(json.dumps(record))
    changed["settings"]["data"] |= {"file": hostile, "system": hostile}
    changed["stages"]["train"]["result"]["base"]["spec"] = hostile
    changed["stages"]["bench"]["result"]["verdict"] = hostile
    changed["stages"]["convert"]["result"]["verification"][0]["detail"] = hostile
    run.record_path.write_text(json.dumps(changed))
    show(page, "run/second", "second")
    page.wait("document.body.innerText.includes('<img')", 20)
    show(page, "start/train/second", "Train second")
    assert page.run("document.querySelector('#data-system').value") == hostile
    show(page, "", "Runs")
    assert page.run("typeof window.hacked") == "undefined"
    assert page.run("document.querySelectorAll('main img, main script').length") == 0
    run.record_path.write_text(json.dumps(record))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1100])
def test_for_everybody(page: Browser, width: int, scheme: str, axe: str, tmp_path: Path) -> None:
    """Names for screen readers, contrast, nothing that axe-core calls serious, and no scrolling
    sideways."""
    look_as(page, width, scheme)
    for view, heading, least, ready in (
        ("", "Runs", 5, "tbody"), ("run/first", "first", 12, "figure"),
        ("start/train", "New training", 60, "fieldset"),
        ("start/bench/first", "Benchmark first", 40, "fieldset"),
    ):  # fmt: skip
        show(page, view, heading)
        page.wait(f"document.querySelector('main {ready}') !== null", 20)
        page.run("for (const one of document.querySelectorAll('details')) one.open = true")
        page.screenshot(tmp_path / f"{heading}.png")
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), view
        assert low_contrast(page) == [], view
        assert serious_findings(page, axe) == [], view
        controls = named_controls(page)
        assert len(controls) >= least, view
        assert [one for one in controls if not one[1]] == [], view
