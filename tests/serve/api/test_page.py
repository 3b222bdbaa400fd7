"""The page at / in a real browser: two models side by side, streaming, thoughts folded."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import ROOT

pytestmark = pytest.mark.slow

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Browser:
    """Headless Chromium, spoken to over its debugging pipe (JSON messages ended by a zero)."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def on_three_and_four() -> None:
            # Moved out of the way first: one of them may be 3 or 4 itself.
            one, two = os.dup(to_browser), os.dup(from_browser)
            os.dup2(one, 3)
            os.dup2(two, 4)

        self._process = subprocess.Popen(
            [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync",
             "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            close_fds=False,
            preexec_fn=on_three_and_four,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._held = b""
        self._number = 0
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> Any:
        while b"\0" not in self._held:
            block = os.read(self._in, 65536)
            assert block, "the browser ended"
            self._held += block
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, (
                f"{condition}: {self.run('document.body.innerText')}"
            )
            time.sleep(0.2)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


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
