"""Headless Chromium for tests of pages, spoken to over its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Browser:
    """Headless Chromium, spoken to over its debugging pipe (JSON messages ended by a zero)."""

    def __init__(self, profile: Path, *options: str) -> None:
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
             "--remote-debugging-pipe", f"--user-data-dir={profile}", *options, "about:blank"],
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


@contextmanager
def running_browser(profile: Path, *options: str) -> Iterator[Browser]:
    """A browser with a page, started with these options; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    browser = Browser(profile, *options)
    yield browser
    browser.close()


def look_as(browser: Browser, width: int, scheme: str) -> None:
    """Show the page in a window of this width (CSS pixels), 'light' or 'dark'."""
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
    browser.call("Emulation.setEmulatedMedia",
                 features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip


def press(browser: Browser, key: str) -> None:
    """Press and release Enter, Escape, Tab or the space bar."""
    codes = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32}
    event: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
    text = {"Enter": "\r", " ": " "}.get(key)
    down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
    browser.call("Input.dispatchKeyEvent", **down, **event)
    browser.call("Input.dispatchKeyEvent", type="keyUp", **event)


_CONTROLS = {
    "button", "textbox", "combobox", "checkbox", "spinbutton", "link", "article", "log",
    "DisclosureTriangle", "form", "region", "progressbar", "listbox",
}  # fmt: skip


def named_controls(browser: Browser) -> list[tuple[str, str]]:
    """(role, name) of everything that a screen reader tells as a control or a region. The domain
    Accessibility has to be enabled."""
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in _CONTROLS
    ]


_CONTRAST = """(() => {
const rgb = text => {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  context.fillStyle = text; context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
  v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
const behind = element => {
  for (let one = element; one; one = one.parentElement) {
    const found = rgb(getComputedStyle(one).backgroundColor);
    if (found[3] === 255) return found;
  }
  const probe = document.createElement("div");
  probe.style.background = "Canvas";
  document.body.append(probe);
  const canvas = rgb(getComputedStyle(probe).backgroundColor);
  probe.remove();
  return canvas;
};
const low = [];
for (const one of document.querySelectorAll("body *")) {
  if (!one.checkVisibility() || one.disabled || ![...one.childNodes].some(
        node => node.nodeType === 3 && node.textContent.trim())) continue;
  const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort(
    (x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) low.push([one.tagName, one.className, one.textContent.slice(0, 30), ratio]);
}
return low;
})()"""


_AXE = """axe.run(document, {resultTypes: ["violations"], iframes: false}).then(
  found => found.violations.filter(one => ["serious", "critical"].includes(one.impact)).map(
    one => `${one.id}: ${one.help}: ` + one.nodes.slice(0, 5).map(
      node => `${node.target} ${node.failureSummary}`).join("; ")))"""


def serious_findings(browser: Browser, axe: str) -> Any:
    """What axe-core, whose script is `axe`, calls serious or critical on the page."""
    if browser.run("typeof axe === 'undefined'"):
        browser.run(f"{axe}\n;0")
    return browser.run(_AXE)


def low_contrast(browser: Browser) -> Any:
    """The elements whose text has less than 4.5 : 1 against what is behind it (WCAG AA)."""
    return browser.run(_CONTRAST)
