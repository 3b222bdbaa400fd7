"""Is the report quick with 5,000 prompts of long answers? First paint, filter, search in Chromium.

Makes a report of made-up answers (no model is loaded), opens it in headless Chromium and measures
within the page: first paint, a filter, a search, the search's first use, opening a row; each with
the layout that follows. Prints one line for each, then one line of JSON.

    python benchmarks/bench_page.py [--prompts 5000] [--pictures FOLDER]

--pictures also writes screenshots (light, dark, 400 pixels wide) and the printed page as PDF.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.bench.report.report_support import make_report, some_pairs
from tests.browser import Browser, running_browser
from tuneserve.bench.compare.pairs import Answer, Pair
from tuneserve.bench.report.pages import write_report
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings

TEXT = """the battery lasts for weeks although shipping took three days Größe naïve straße model
data kernel answer question reference likelihood because therefore 10 3.5 सकारात्मक उत्तर столица"""
WORDS = TEXT.split()
STEPS = {
    "first search": "field('typed').value = 'battery'; apply()",
    "search": "field('typed').value = 'straße столица'; apply()",
    "filter": "field('typed').value = ''; field('outcome').value = 'won'; apply()",
    "filter by ending": "field('outcome').value = 'all'; field('ending').value = 'cut'; apply()",
    "order": "field('ending').value = ''; field('order').value = 'reference'; apply()",
    "open a row": "activate(5); toggle(5)",
}


def made_up(number: int, draw: random.Random) -> Pair:
    """A prompt of some 400 characters, a reference and two answers of some 1,000."""
    reference = draw.choices(WORDS, k=draw.randint(40, 220))

    def given(changed: float) -> Answer:
        words = [draw.choice(WORDS) if draw.random() < changed else word for word in reference]
        score = round(max(0.0, min(1.0, draw.gauss(1 - changed, 0.1))), 3)
        ended = "length" if draw.random() < 0.1 else "stop"
        return Answer(" ".join(words), "", False, score, ended, len(words), 900 * changed, 230)

    question = " ".join(draw.choices(WORDS, k=draw.randint(20, 120)))
    example = Example.of_turn(
        f"prompt-{number}", question, " ".join(reference), group=f"group {number % 7}"
    )
    return Pair(example, given(0.5), given(0.2))


def measure(browser: Browser, page: Path) -> dict[str, float]:
    """Milliseconds by name."""
    browser.call("Page.enable")
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait("document.documentElement?.classList.contains('interactive')")
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    browser.wait(paint)
    found = {"first paint": float(browser.run(paint))}
    for name, script in STEPS.items():
        timed = (
            f"(() => {{ const start = performance.now(); {script}; document.body.offsetHeight; "
            "return performance.now() - start; })()"
        )
        found[name] = float(browser.run(timed))
    return found


def take_pictures(browser: Browser, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, width, scheme in (
        ("light", 1280, "light"), ("dark", 1280, "dark"), ("narrow", 400, "light"),
    ):  # fmt: skip
        size: dict[str, Any] = {"width": width, "height": 900, "deviceScaleFactor": 1}
        browser.call("Emulation.setDeviceMetricsOverride", mobile=False, **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=features)
        browser.run("document.getElementById('answers').scrollIntoView()")
        browser.screenshot(folder / f"{name}.png")
    browser.call("Emulation.clearDeviceMetricsOverride")
    pdf = browser.call("Page.printToPDF")["data"]
    (folder / "printed.pdf").write_bytes(base64.b64decode(pdf))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    draw = random.Random(0)
    pairs = [made_up(number, draw) for number in range(options.prompts)]
    settings = BenchSettings(task="rouge_l", bootstrap=1000)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_report(make_report(pairs, some_pairs("general/"), settings), folder / "bench")
        page = folder / "bench" / "report.html"
        with running_browser(folder / "profile") as browser:
            found = measure(browser, page)
            if options.pictures:
                take_pictures(browser, options.pictures)
        megabytes = page.stat().st_size / 1e6
    for step, milliseconds in found.items():
        print(f"{step:18} {milliseconds:7.0f} ms")
    print(json.dumps({"prompts": options.prompts, "megabytes": megabytes, "ms": found}))


if __name__ == "__main__":
    main()
