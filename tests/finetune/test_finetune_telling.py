"""What training tells: the curves' page and the figures of the panel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.finetune.training.curves_page import ticks, write_curves_page
from tuneserve.finetune.training.progress import Progress, watching


def test_the_page_needs_nothing_else_and_has_every_evaluation(tmp_path: Path) -> None:
    history = [
        *({"step": step, "loss": 3.0 / step} for step in range(1, 31)),
        {"step": 0, "eval_loss": 2.5, "general_loss": 1.0},
        {"step": 30, "eval_loss": 0.25, "general_loss": 1.5},
    ]
    write_curves_page(history, tmp_path / "curves.html", "a <b> run")
    page = (tmp_path / "curves.html").read_text()
    assert not re.search(r"(src|href)=|https?://|@import", page)
    assert "a &lt;b&gt; run" in page
    assert page.count("<polyline") == 4
    assert re.findall(r"<title>(step \d+: [\d.]+)</title>", page) == [
        "step 0: 2.5000", "step 30: 0.2500", "step 0: 1.0000", "step 30: 1.5000",
    ]  # fmt: skip
    assert "prefers-color-scheme: dark" in page


def test_a_page_of_a_run_without_evaluations(tmp_path: Path) -> None:
    write_curves_page([{"step": 1, "loss": float("nan")}], tmp_path / "c.html", "x")
    assert "<circle" not in (tmp_path / "c.html").read_text()


@given(st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_within(highest: float) -> None:
    found = ticks(highest)
    assert found[0] == 0
    assert 2 <= len(found) <= 8
    assert found[-1] <= highest * (1 + 1e-9)


def test_the_rate_and_the_time_left_are_of_the_last_steps() -> None:
    progress = Progress(100)
    assert progress.seconds_left is None
    for step in range(1, 31):
        progress.stepped(step, seconds=10.0 if step <= 10 else 2.0, tokens=100)
    assert progress.tokens_per_second == 50.0
    assert progress.seconds_left == pytest.approx(140.0)
    assert progress.figures()["step"] == "30 of 100"


def test_a_log_gets_the_last_step_and_no_step_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(2, "x") as watch:
        for step in (1, 2):
            watch.progress.stepped(step, 0.1, 10)
            watch.progress.loss = 1.0
            watch.show()
        watch.show()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "step 2/2, loss 1.0000" in told[0]
