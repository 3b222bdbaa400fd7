"""What a new user sees in the first minutes, as pictures: from a fresh clone to a chat.

Clones the repository, writes a table as a European Excel does (semicolons, cp1252, columns with
names of their own), makes a recipe of it by `tuneserve init` with its questions answered in a
terminal, opens `tuneserve ui` in headless Chromium, starts a training there, watches it, converts
and benchmarks, opens the report, chats with base and tune. Every stage is the real one, on the demo
base. A picture of each step goes into a folder, to be looked at; nothing is compared.

    python benchmarks/first_minutes.py FOLDER [--steps 24] [--limit 24]

Needs Chromium and pyte. Some minutes on two cores; the demo base is imported into the cache once.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.browser import Browser, look_as, running_browser
from tests.support import ROOT
from tests.terminals import ROWS, Recording

COLUMNS = 100
WIDTH = 1100
_PAGE = """<!doctype html><meta charset="utf-8"><title>terminal</title><style>
body {{ background: #14171a; color: #e8eaec; margin: 1.5rem; }}
pre {{ font: 14px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }}</style>
<pre>{}</pre><p id=end>"""
_WORDS = {
    "Rechnung": [
        "Die Rechnung für März fehlt", "Betrag um 20 € zu hoch", "Mahnung, obwohl längst bezahlt",
        "Abbuchung doppelt", "Brauche die Quittung mit Mehrwertsteuer", "Gutschrift kam nicht",
    ],
    "Versand": [
        "Das Päckchen kam nie an", "Lieferung an die alte Straße geschickt", "Karton war offen",
        "Wann kommt die Ware?", "Der Bote hat nicht geklingelt", "Falsche Größe im Paket",
    ],
    "Technik": [
        "Das Gerät geht nicht an", "Die App stürzt ständig ab", "Passwort wird abgelehnt",
        "Kein Ton über Bluetooth", "Bildschirm bleibt schwarz", "Update hängt bei 40 %",
    ],
}  # fmt: skip
_MORE = [
    "bitte prüfen", "seit gestern früh", "schon zum zweiten Mal", "können Sie mir helfen?",
    "es eilt sehr", "danke im Voraus", "ich rief schon dreimal an", "was soll ich jetzt tun?",
    "Grüße aus Köln", "meine Geduld ist am Ende", "vielleicht mein Fehler", "Kundin seit 2009",
]  # fmt: skip


class Film:
    """Takes the pictures, numbered."""

    def __init__(self, folder: Path, browser: Browser) -> None:
        self._folder = folder
        self._browser = browser
        self._taken = 0

    def page(self, name: str, *, top: str = "") -> None:
        """What the browser shows; scrolled to the element that fulfils a selector."""
        scroll = f"document.querySelector({json.dumps(top)}).scrollIntoView()" if top else ""
        self._browser.run(scroll or "scrollTo(0, 0)")
        time.sleep(0.3)
        self._taken += 1
        path = self._folder / f"{self._taken:02d}-{name}.png"
        self._browser.screenshot(path)
        print(path, flush=True)

    def terminal(self, name: str, command: Sequence[str], written: bytes) -> None:
        lines = Recording(COLUMNS, 0, written).last().lines()
        text = "\n".join([f"$ {' '.join(command)}", *lines])
        path = self._folder / "terminal.html"
        path.write_text(_PAGE.format(html.escape(text)), encoding="utf-8")
        self._browser.call("Page.navigate", url=path.as_uri())
        self._browser.wait("document.title === 'terminal'", 10)
        self.page(name)
        if self._browser.run("document.documentElement.scrollHeight > innerHeight"):
            self.page(f"{name}-end", top="#end")


def write_table(path: Path) -> None:
    """90 tickets as a German Excel saves them: semicolons, cp1252, a line above the names."""
    draw = random.Random(3)
    rows = ["Nr.;Anfrage des Kunden;Abteilung;Größe"]
    for number in range(90):
        team = draw.choice(list(_WORDS))
        text = f"{draw.choice(_WORDS[team])}, {draw.choice(_MORE)} (Fall {number})"
        rows.append(f'{number};"{text}";{team};{draw.choice(["groß", "klein", ""])}')
    path.write_bytes("\r\n".join(rows).encode("cp1252") + b"\r\n")


def in_terminal(
    command: Sequence[str],
    answers: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    size: tuple[int, int] = (ROWS, COLUMNS),
) -> Iterator[tuple[float, bytes]]:
    """(seconds since the piece before, bytes) of what a terminal of this size (rows, columns) shows
    of `tuneserve …` whose questions get these answers. Raises SystemExit if it fails."""
    main, other = pty.openpty()
    ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, stdin=other, stdout=other, stderr=other,
        env={**environment, "TERM": "xterm-256color"}, start_new_session=True,
    )  # fmt: skip
    os.close(other)
    left, last, written = list(answers), time.monotonic(), b""
    while True:
        ready, _, _ = select.select([main], [], [], 1.0)
        if not ready:
            if left and written.rstrip(b" ").endswith(b":"):
                os.write(main, left.pop(0).encode() + b"\n")
            continue
        try:
            written = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        now = time.monotonic()
        yield now - last, written
        last = now
    os.close(main)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed: {written.decode(errors='replace')}")


@contextmanager
def running_page(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """`tuneserve ui`; the address with its token."""
    log = folder / "ui.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tuneserve", "ui", "--port", "0"], cwd=folder, stderr=stderr,
            env=environment,
        )  # fmt: skip
    try:
        while not (found := re.search(r"open (http\S+#token=\S+)", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def start_stage(browser: Browser, film: Film, stage: str, values: dict[str, str]) -> None:
    """Fill in the form of a stage, take its picture, send it."""
    for name, value in values.items():
        field = f"document.querySelector({json.dumps('#' + name)})"
        browser.wait(f"{field} !== null", 20)
        browser.run(f"{field}.value = {json.dumps(value)}")
        if name == "recipe":
            browser.run("[...document.querySelectorAll('button')]"
                        ".find(one => one.textContent === 'Fill in').click()")  # fmt: skip
            time.sleep(1.5)
    film.page(f"form-{stage}")
    browser.run("document.querySelector('main form').requestSubmit()")
    browser.wait("document.querySelector('h1')?.textContent === 'mine'", 30)


def wait_for(browser: Browser, stage: str) -> None:
    """Until a stage has ended; ends the film if it failed."""
    state = "document.querySelector('.job .badge')?.textContent"
    begun = f"document.querySelector('.job').textContent.includes('tuneserve {stage} ')"
    browser.wait(f"/done|failed|refused|stopped/.test({state} ?? '') && {begun}", 600)
    if browser.run(state) != "done":
        raise SystemExit(f"{stage}: {browser.run('document.body.innerText')}")


def shoot(folder: Path, steps: int, limit: int) -> None:
    clone = folder / "tuneserve"
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(clone)], check=True
    )
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    work = folder / "work"
    work.mkdir()
    write_table(work / "tickets.csv")
    with running_browser(folder / "profile") as browser:
        browser.call("Page.enable")
        look_as(browser, WIDTH, "light")
        film = Film(folder, browser)
        command = ["tuneserve", "init"]
        answers = ["tickets.csv", "demo", "Anfrage des Kunden", "Abteilung"]
        written = b"".join(part for _, part in in_terminal(command, answers, work, environment))
        film.terminal("init", command, written)
        recipe = (work / "mine.toml").read_bytes().replace(b"\n", b"\r\n")
        film.terminal("recipe", ["cat", "mine.toml"], recipe)
        with running_page(work, environment) as address:
            origin = address.split("#")[0]
            browser.call("Page.navigate", url=address)
            browser.wait("document.querySelector('h1')?.textContent === 'Runs'", 20)
            film.page("ui-empty")
            browser.run("location.hash = '#/start/train'")
            start_stage(browser, film, "train", {
                "recipe": "mine.toml", "run-name": "mine", "train-max_steps": str(steps),
                "train-compile": "false",
            })  # fmt: skip
            film.page("begun")
            browser.wait("document.querySelectorAll('figure svg').length > 1", 600)
            film.page("training")
            wait_for(browser, "train")
            film.page("trained")
            browser.run("location.hash = '#/start/convert/mine'")
            start_stage(browser, film, "convert", {})
            browser.wait("document.querySelector('pre.log')?.textContent.includes('verify')", 300)
            film.page("converting", top="pre.log")
            wait_for(browser, "convert")
            film.page("converted")
            browser.run("location.hash = '#/start/bench/mine'")
            start_stage(browser, film, "bench", {
                "bench-limit": str(limit), "bench-general": "0", "bench-clients": "1",
                "bench-speed_repetitions": "2", "bench-max_tokens": "16",
            })  # fmt: skip
            browser.wait("document.querySelectorAll('.job .command').length > 1", 120)
            film.page("measuring")
            wait_for(browser, "bench")
            time.sleep(3)
            film.page("benched")
            browser.run("document.querySelector('[data-key=serve]').click()")
            form = "document.querySelector('form[aria-label=\"Your message to both\"]')"
            browser.wait(f"{form} && !{form}.hidden", 120)
            text = "Das Gerät geht nicht an, bitte prüfen"
            browser.run(f"document.querySelector('#prompt').value = {json.dumps(text)}")
            browser.run("document.querySelector('#prompt').form.requestSubmit()")
            browser.wait("[...document.querySelectorAll('.turns .note')].filter(one => "
                         "one.textContent.includes(' tokens in ')).length === 2", 120)  # fmt: skip
            film.page("chat", top="form[aria-label='Your message to both']")
            browser.run("document.querySelector('.turns').closest('section').scrollIntoView()")
            film.page("chat-whole", top="[data-key=serve]")
            browser.call("Page.navigate", url=f"{origin}runs/mine/report.html")
            browser.wait("document.readyState === 'complete'", 20)
            film.page("report")
            look_as(browser, 400, "dark")
            browser.call("Page.reload")
            browser.wait("document.readyState === 'complete'", 20)
            film.page("report-narrow")
            browser.call("Page.navigate", url=address)
            browser.wait("document.querySelector('tbody a') !== null", 20)
            film.page("runs-narrow")
            browser.run("document.querySelector('tbody a').click()")
            browser.wait("document.querySelector('figure svg') !== null", 20)
            film.page("run-narrow")
            film.page("chat-narrow", top=".turns")
            browser.run("location.hash = '#/start/train/mine'")
            browser.wait("document.querySelector('main form') !== null", 20)
            film.page("form-narrow")
            pages = "[...document.querySelectorAll('section a')].map(one => one.href)"
            browser.run("location.hash = '#/run/mine'")
            browser.wait(f"{pages}.length > 1", 20)
            browser.call("Page.navigate", url=browser.run(pages)[-1])
            browser.wait("document.querySelector('select option') !== null", 20)
            browser.run(f"document.querySelector('#prompt').value = {json.dumps(text)}")
            browser.run("document.querySelector('#form').requestSubmit()")
            browser.wait("document.querySelector('.figures') !== null", 60)
            film.page("page-narrow")
            look_as(browser, WIDTH, "light")
            film.page("page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--limit", type=int, default=24)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    shoot(given.folder.resolve(), given.steps, given.limit)


if __name__ == "__main__":
    main()
