"""The recording of the terminal: its frames, and the one that the README shows."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from terminal_frames import CELL_WIDTH, Screen, as_svg, frames

from tests.support import ROOT

pytest.importorskip("pyte", reason="draws what a terminal shows: pip install '.[dev]'")

SHOWN = "{http://www.w3.org/2000/svg}"


def test_a_screen_is_runs_of_one_style() -> None:
    screen = Screen(20, 3)
    screen.feed(b"\x1b[32m$\x1b[0m ls \x1b[1mx\x1b[0m\r\n\r\na  <b>")
    assert screen.lines() == ((("$", "green"), (" ls ", ""), ("x", "bold")), (), (("a  <b>", ""),))


def test_fast_frames_give_way_to_the_later_ones() -> None:
    a, b, c = ((("a", ""),),), ((("b", ""),),), ((("c", ""),),)
    made = frames([(0.0, a), (0.5, a), (1.0, b), (1.05, c), (3.0, a)], least=0.1, last=2.0)
    assert [(one.lines, one.seconds) for one in made] == [(a, 1.0), (c, 2.0), (a, 2.0)]


def test_the_svg_holds_each_line_once_and_its_columns() -> None:
    line, other = (("  a <b>", ""), (" c", "green")), (("d", ""),)
    made = frames([(0.0, (line, other)), (1.0, (line,))], least=0.1, last=1.0)
    root = ElementTree.fromstring(as_svg(made, 20, title="t", says="s"))
    texts = root.findall(f".//{SHOWN}text")
    assert ["".join(one.itertext()) for one in texts] == ["a <b>c", "d"]
    first, second = texts[0]
    assert float(second.get("x", "")) - float(first.get("x", "")) == pytest.approx(6 * CELL_WIDTH)
    assert [use.get("href") for use in root.iter(f"{SHOWN}use")] == ["#l0", "#l1", "#l0"]
    assert "50.000% {transform: translateY(-70px)}" in "".join(root.itertext())


def test_the_recording_of_the_readme() -> None:
    text = (ROOT / "docs" / "terminal.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    said = " ".join("".join(one.itertext()) for one in root.iter(f"{SHOWN}text"))
    for stage in ("init", "train", "convert", "bench"):
        assert f"tuneserve {stage}" in said
    for shown in ("Which column is the prompt?", "100%", "verify", "The tuned model is better"):
        assert shown in said, shown
    assert "docs/terminal.svg" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|/tmp/|/root/|/home/|<script", text)
    assert len(text.encode()) < 400 << 10
