"""What training tells: the curves' page and the figures of the panel."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.support import ROOT
from tuneserve.finetune.training.curves import loss_curves, write_curves_page
from tuneserve.finetune.training.progress import Progress, _Panel, progress_display


def test_the_page_needs_nothing_else_and_has_every_evaluation(tmp_path: Path) -> None:
    history = [
        *({"step": step, "loss": 3.0 / step} for step in range(1, 31)),
        {"step": 0, "eval_loss": 2.5, "general_loss": 1.0},
        {"step": 30, "eval_loss": 0.25, "general_loss": 1.5},
    ]
    write_curves_page(loss_curves(history, 30), tmp_path / "curves.html", "a <b> run")
    page = (tmp_path / "curves.html").read_text()
    assert not re.search(r"(src|href)=|https?://|@import", page)
    assert "a &lt;b&gt; run" in page
    assert page.count('<path class="line ') == 4
    assert re.findall(r"<title>(step \d+: [\d.]+)</title>", page) == [
        "step 0: 2.5000", "step 30: 0.2500", "step 0: 1.0000", "step 30: 1.5000",
    ]  # fmt: skip
    assert "prefers-color-scheme: dark" in page
    assert "weights kept (step 30)" in page
    assert "<td>0.2500</td><td>1.284</td><td>1.5000</td><td>4.482</td>" in page


def test_a_page_of_a_run_without_evaluations(tmp_path: Path) -> None:
    history = [{"step": 1, "loss": float("nan")}]
    write_curves_page(loss_curves(history, None), tmp_path / "c.html", "x")
    assert 'class="dot' not in (tmp_path / "c.html").read_text()


def test_the_rate_and_the_time_left_are_of_the_last_steps() -> None:
    progress = Progress(100)
    assert progress.seconds_left is None
    for step in range(1, 31):
        progress.stepped(step, seconds=10.0 if step <= 10 else 2.0, tokens=100)
    assert progress.tokens_per_second == 50.0
    assert progress.seconds_left == pytest.approx(140.0)
    assert progress.figures()["step"] == "30 of 100"


def test_the_first_step_says_nothing_of_the_time_left() -> None:
    """It compiled for a minute: 400 steps of one second take seven minutes, and not seven hours."""
    progress = Progress(400)
    progress.stepped(1, seconds=60.0, tokens=600)
    shown = progress.figures()
    assert shown["left"] == "estimating"
    assert "speed" not in shown
    for step in (2, 3):
        progress.stepped(step, seconds=1.0, tokens=600)
        assert progress.seconds_left is None
        assert progress.tokens_per_second is None
    progress.stepped(4, seconds=1.0, tokens=600)
    assert progress.seconds_left == pytest.approx(396.0)
    assert progress.steady_rate == pytest.approx(600.0)
    assert progress.figures()["speed"] == "600 tokens/s"


def test_evaluations_are_part_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are of the time that passes, and of what `plan` says."""
    now = 0.0
    monkeypatch.setattr("tuneserve.finetune.training.progress.time.monotonic", lambda: now)
    progress = Progress(10, evaluate_every=4, _started=0.0)
    now = 3.0
    progress.evaluates("eval: 1 of 2")
    shown = progress.figures()
    assert (shown["elapsed"], shown["left"]) == ("3.0 s", "estimating")
    progress.evaluated({"eval": 1.0}, 7.0)
    for step in range(1, 6):
        progress.stepped(step, 2.0, 100)
    assert progress.seconds_left == pytest.approx(5 * 2.0 + 7.0)  # the one after step 8
    for step in range(6, 9):
        progress.stepped(step, 2.0, 100)
    assert progress.seconds_left == pytest.approx(2 * 2.0 + 7.0)  # which is due
    progress.evaluates("eval: 1 of 2")
    now = 5.0
    assert progress.seconds_left == pytest.approx(2 * 2.0 + 5.0)
    progress.evaluated({"eval": 0.5}, 6.0)
    assert progress.evaluating == ""
    assert progress.seconds_left == pytest.approx(2 * 2.0)


def test_after_the_last_step_nothing_is_estimated() -> None:
    progress = Progress(2)
    for step in (1, 2):
        progress.stepped(step, 2.0, 100)
    assert progress.figures()["left"] == "0.0 s"


def test_a_step_that_compiles_for_a_new_shape_is_no_measure_of_the_others() -> None:
    progress = Progress(100)
    for step, seconds in enumerate([60.0, 2.0, 30.0, 2.0, 4.0], 1):
        progress.stepped(step, seconds, tokens=100)
    assert progress.seconds_left == pytest.approx(95 * (2 + 2 + 4) / 3)
    assert progress.tokens_per_second == pytest.approx(300 / 8)


def test_a_log_says_that_it_is_estimating(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneserve.finetune.training.progress.PLAIN_LINE_SECONDS", 0.0)
    with progress_display(9, "x") as display:
        for step in range(1, 5):
            display.progress.stepped(step, 2.0, 100)
            display.show()
    told = capsys.readouterr().err.splitlines()
    assert all(line.endswith(", estimating the time left") for line in told[:3])
    assert told[3].startswith("training: step 4/9, 50 tokens/s, ")
    assert told[3].endswith(", 10.0 s left")


def test_a_log_gets_the_last_step_and_no_step_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display(2, "x") as display:
        for step in (1, 2):
            display.progress.stepped(step, 0.1, 10)
            display.progress.loss = 1.0
            display.show()
        display.show()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "step 2/2, loss 1.0000" in told[0]
    assert told[0].endswith(", 0.0 s left")


def panel(width: int, *, evaluating: str = "") -> str:
    """The panel of a training with general examples, as a terminal of this width shows it."""
    progress = Progress(12_345, epochs=3)
    for step in range(6170, 6174):
        progress.stepped(step, 2.0, 4096)
    progress.loss, progress.learning_rate = 1.2345, 2e-4
    progress.losses = {"eval": 1.3456, "general": 2.3456}
    progress.memory, progress.evaluating = 3 << 30, evaluating
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None)
    console.print(_Panel(progress, "x", console).render())
    return written.getvalue()


def test_the_clock_goes_on_while_nothing_is_done() -> None:
    """The first evaluation may take minutes, and a step too."""
    code = (
        "import time\n"
        "from tuneserve.finetune.training.progress import progress_display\n"
        "with progress_display(9, 'x') as display:\n"
        "    display.progress.evaluates('eval: 0 of 2')\n"
        "    time.sleep(2.5)\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(ours, 1 << 16).decode())
    os.close(ours)
    os.close(theirs)
    assert "evaluating eval: 0 of 2" in shown
    assert {"1", "2"} <= {*re.findall(r"elapsed +(\d)\.\d s", shown)}


@pytest.mark.parametrize("width", [50, 80, 100, 140])
def test_no_figure_is_cut_at_any_width(width: int) -> None:
    shown = panel(width, evaluating="general: 3 of 12")
    for figure in (
        "6,173 of 12,345", "1.50 of 3", "1.2345", "1.3456", "2.3456", "2.00e-04", "2,048 tokens/s",
        "3.0 GiB", "3 h 25 min", "general: 3 of 12", "50%",
    ):  # fmt: skip
        assert figure in shown, figure
    for name in ("learning rate", "general loss", "elapsed", "left", "evaluating", "epoch"):
        assert name in shown
    assert max(map(len, shown.splitlines())) <= min(width, 100)
    assert "evaluating" not in panel(width)


def test_a_log_tells_how_far_a_long_evaluation_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuneserve.finetune.training.progress.PLAIN_LINE_SECONDS", 0.0)
    with progress_display(9, "x") as display:
        display.progress.stepped(3, 2.0, 100)
        for done in (1, 2):
            display.progress.evaluating = f"eval: {done} of 2"
            display.show()
    assert capsys.readouterr().err.splitlines() == [
        "evaluating at step 3: eval: 1 of 2", "evaluating at step 3: eval: 2 of 2",
    ]  # fmt: skip
