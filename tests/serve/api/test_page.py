"""The page at / in a real browser: two models side by side, streaming, thoughts folded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import Browser, running_browser
from tests.support import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with running_browser(tmp_path / "profile") as browser:
        yield browser


def test_two_models_answer_side_by_side(
    start_server: Any, browser: Browser, demo_gguf: Path, lora_gguf: Path, tmp_path: Path
) -> None:
    options = ["--name", "base", "--lora", f"loud={lora_gguf}", "--ctx", "1024"]
    with start_server(tmp_path / "log", str(demo_gguf), *options) as running:
        policy = httpx.get(running.url).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        browser.call("Page.enable")
        browser.call("Page.navigate", url=running.url)
        browser.wait("document.querySelectorAll('.column select').length === 2")
        chosen = "[...document.querySelectorAll('select')].map(s => s.value).join()"
        assert browser.run(chosen) == "base,loud"
        browser.run("document.getElementById('temperature').value = 0")
        browser.run("document.getElementById('longest').value = 16")
        browser.run("document.getElementById('prompt').value = 'What is 1+1?'")
        browser.run("document.getElementById('form').requestSubmit()")
        browser.wait("document.querySelectorAll('.figures').length === 2")
        texts = "[...document.querySelectorAll('.assistant')].map(e => e.textContent)"
        answers = json.loads(browser.run(f"JSON.stringify({texts})"))
        assert "2" in answers[0]
        assert answers[1] not in ("", answers[0])
        assert not browser.run("document.querySelectorAll('.error').length")
        browser.screenshot(tmp_path / "page.png")
        browser.run("document.getElementById('reset').click()")
        assert not browser.run("document.querySelectorAll('.turn').length")


def test_thoughts_are_folded_and_errors_are_shown(browser: Browser) -> None:
    """The page's own functions on a made-up stream: the demo model does not think."""
    page = ROOT / "serve" / "api" / "page.html"
    browser.call("Page.enable")
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait("typeof ask === 'function'")
    script = """(async () => {
      const chunk = delta => "data: " + JSON.stringify({choices: [{delta}]}) + "\\n\\n";
      window.fetch = async () => new Response(
        chunk({reasoning_content: "Hm. "}) + chunk({reasoning_content: "Two."}) +
        chunk({content: "<b>2</b>"}) + "data: [DONE]\\n\\n");
      models = ["m"]; layOut();
      await ask(columns[0], "1+1?", null);
      window.fetch = async () => new Response('{"error": {"message": "too busy"}}', {status: 429});
      await ask(columns[0], "again?", null);
      const details = document.querySelector("details");
      return JSON.stringify([details.open, details.querySelector(".turn").textContent,
        document.querySelector(".assistant").textContent,
        document.querySelector(".error").textContent, columns[0].messages.length]);
    })()"""
    assert json.loads(browser.run(script)) == [False, "Hm. Two.", "<b>2</b>", "too busy", 2]
