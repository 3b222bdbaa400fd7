"""A training's page of curves in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import look_as, low_contrast, running_browser, serious_findings
from tuneserve.finetune.training.curves import loss_curves, write_curves_page

pytestmark = pytest.mark.slow


def test_for_everybody(axe: str, tmp_path: Path) -> None:
    """Contrast, no scrolling sideways, nothing that axe-core calls serious."""
    history = [
        *({"step": step, "loss": 3.0 / step} for step in range(1, 31)),
        *({"step": step, "eval_loss": 2.5, "general_loss": 1.0} for step in range(0, 31, 10)),
    ]
    path = tmp_path / "curves.html"
    write_curves_page(loss_curves(history, 30), path, "a-run-with-a-name-of-no-small-length" * 2)
    with running_browser(tmp_path / "profile") as browser:
        browser.call("Page.enable")
        browser.call("Page.navigate", url=path.as_uri())
        browser.wait("document.querySelector('figure, table') !== null")
        for width in (400, 1100):
            for scheme in ("light", "dark"):
                look_as(browser, width, scheme)
                browser.screenshot(tmp_path / f"{width}-{scheme}.png")
                assert browser.run("document.documentElement.scrollWidth <= innerWidth"), width
                assert low_contrast(browser) == [], (width, scheme)
                assert serious_findings(browser, axe) == [], (width, scheme)
