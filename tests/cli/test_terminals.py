"""What train, convert and bench show on terminals of 50, 80 and 140 columns, and in a log."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.finetune.training.variants import make_small
from tests.support import ModulePaths
from tests.terminals import ROWS, Recording, record

pytest.importorskip("pyte", reason="draws what a terminal shows: pip install '.[dev]'")
pytestmark = pytest.mark.slow

WIDTHS = (50, 80, 140)
LOG = 0
_TRAIN = (
    "--base tiny --file colours.jsonl --general general.jsonl --replay 0 --compile false "
    "--max-seq-length 64 --r 4 --batch-size 2 --max-steps 8 --evaluations 2 --no-preflight "
    "--test-fraction 0.2 --eval-fraction 0.2 --least-held-out 0"
)
_BENCH = (
    "--general 0 --clients 1 --max-tokens 6 --ctx 256 --parallel 4 --threads 1 "
    "--speed-repetitions 2 --bootstrap 1000 --cache-type-k f16 --cache-type-v f16"
)
_TIME = r"(\d+\.\d s|\d+ min \d\d s|\d+ h \d\d min)"
_LEFT = rf"({_TIME} left|estimating|in {_TIME})"

Recordings = dict[int, Recording]


@pytest.fixture(scope="module")
def stages(module_paths: ModulePaths, demo_base: Path) -> dict[str, Recordings]:
    """The three stages of a tiny base, each at every width and in a log."""
    folder = module_paths.mktemp("terminals")
    (folder / "tiny").mkdir()
    make_small(demo_base, folder / "tiny")
    rows = [
        json.dumps({"instruction": f"Which colour has number {i}?", "output": "red" * (i % 3 + 1)})
        for i in range(40)
    ]
    (folder / "colours.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "general.jsonl").write_text("\n".join(rows[:9]).replace("colour", "animal") + "\n")
    found = {}
    for stage, load, options in (
        ("train", "tuneserve.finetune.runtime.libraries unsloth", _TRAIN),
        ("convert", "torch transformers", ""),
        ("bench", "llama_cpp scipy.stats", _BENCH),
    ):
        calls = [
            (width, [stage, "--run", f"run{width}", *shlex.split(options)])
            for width in (*WIDTHS, LOG)
        ]
        made = record(folder, load.split(), calls)
        for one in made:
            assert one.code == 0, one.text
        found[stage] = {one.columns: one for one in made}
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("stage", ["train", "convert", "bench"])
def test_no_line_comes_apart_within_a_word(
    stages: dict[str, Recordings], stage: str, width: int
) -> None:
    """But for a path or a command that is longer than the line."""
    screen = stages[stage][width].last()
    broken = [line for line in screen.broken if " " in line.strip() and "tuneserve " not in line]
    assert broken == []
    lines = screen.lines()
    assert not any("…" in line for line in lines)
    # A figure and its unit, and the command that comes next, are on one line.
    assert not any(re.match(r"\s*(GiB|MiB|tokens/s|tokens|min|layers/s)\b", line) for line in lines)
    assert stage != "train" or f"tuneserve convert --run run{width}" in " ".join(lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_panel_of_a_training_keeps_its_place(stages: dict[str, Recordings], width: int) -> None:
    heights, seen, evaluating = [0], "", 0
    places: dict[str, set[tuple[int, int]]] = {}
    for screen in stages["train"][width].screens():
        lines = screen.lines()
        begins = [place for place, line in enumerate(lines) if line.startswith("╭")]
        if not begins:
            continue
        assert len(begins) == 1
        panel = lines[begins[0] :]
        if not any(line.startswith("╰") for line in panel):
            continue  # amid a drawing, as the last lines of a screen that scrolls
        panel = panel[: next(n for n, line in enumerate(panel) if line.startswith("╰")) + 1]
        assert {len(line) for line in panel} == {min(width, 100)}
        heights.append(len(panel))
        seen, text = "\n".join(panel), panel[-1]
        evaluating += "evaluating eval: " in text or "evaluating general: " in text
        if "general loss" not in seen:
            continue  # before the first step the losses of the first evaluation come
        for name in ("step", "epoch", "speed", "left"):
            for row, line in enumerate(panel):
                if found := re.search(rf" {name}   ", line):
                    places.setdefault(name, set()).add((row, found.start()))
    assert heights == sorted(heights)
    assert evaluating > 0
    assert set(places) == {"step", "epoch", "speed", "left"}
    assert all(len(found) == 1 for found in places.values()), places
    for figure in (r"100% │", r"step   8 of 8", r"epoch   0\.\d\d of 0\.\d\d", r"loss   \d+\.\d{4}",
                   r"eval loss   \d+\.\d{4}", r"general loss   \d+\.\d{4}",
                   r"learning rate   \d\.\d\de-\d\d", r"speed   [\d,]+ tokens/s",
                   r"memory   [\d.]+ [GM]iB", rf"elapsed   {_TIME}",
                   rf"left   {_TIME}"):  # fmt: skip
        assert re.search(figure, seen), figure


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("stage", ["convert", "bench"])
def test_bars_show_share_rate_and_time(
    stages: dict[str, Recordings], stage: str, width: int
) -> None:
    bars = set()
    for screen in stages[stage][width].screens():
        bars |= {
            line.strip()
            for line in screen.lines()
            if re.search(r"[━╸╺] ", line) and "─" not in line
        }
    drawn = [line for line in bars if "%" in line]
    assert len(drawn) > 5
    rates = {"convert": r"(MiB/s|layers/s)", "bench": r"(prompts|repetitions|answers|rounds)/s"}
    for line in drawn:
        begun = not re.search(r" 0% ", line)
        assert re.search(rf"[━╸╺] +\d+% +[\d.,]+ {rates[stage]} +{_LEFT}", line) or not begun, line
        assert re.search(_LEFT, line), line
    assert any("100%" in line for line in drawn)


def test_verifying_says_what_it_does(stages: dict[str, Recordings]) -> None:
    for recording in stages["convert"].values():
        text = " ".join(recording.text.split())
        for told in ("verify: token ids, chat template, tensors", "verify: the trainer's logits",
                     "verify: the files' logits", "verify: the trainer's layers"):  # fmt: skip
            assert told in text


def test_a_log_has_plain_lines(stages: dict[str, Recordings]) -> None:
    for recordings in stages.values():
        text = recordings[LOG].text
        assert "\x1b" not in text
        assert "\r" not in text
        assert "━" not in text
    lines = stages["train"][LOG].text.splitlines()
    steps = [line for line in lines if line.startswith("training: step ")]
    assert len(steps) == 8
    assert all(re.search(rf", ({_TIME} left|estimating the time left)$", line) for line in steps)
    assert re.search(
        rf"^training: step 7/8, epoch 0\.\d\d of 0\.\d\d, loss \d+\.\d{{4}}, .*tokens/s, .*"
        rf"elapsed {_TIME}, {_TIME} left$", "\n".join(steps), re.MULTILINE,
    )  # fmt: skip
    assert any(re.match(r"evaluating at step \d: general: 1 of \d", line) for line in lines)
    for stage, label in (("convert", "write run0-Q4_K_M.gguf"), ("bench", "tuned: answers")):
        told = [one for one in stages[stage][LOG].text.splitlines() if one.startswith(label)]
        assert told
        assert all(re.search(rf": \d+ %, [\d.,]+ .*/s,? {_LEFT}", line) for line in told), told


def test_tmux_shows_the_same(stages: dict[str, Recordings], tmp_path: Path) -> None:
    """The emulator is no judge of itself."""
    if shutil.which("tmux") is None:
        pytest.skip("no tmux on the PATH")
    tmux = ["tmux", "-f", "/dev/null", "-S", str(tmp_path / "socket")]
    for stage, recordings in stages.items():
        (tmp_path / stage).write_bytes(recordings[50].written)
        command = f"cat {shlex.quote(str(tmp_path / stage))}; printf THE-END; sleep 60"
        subprocess.run(
            [*tmux, "new-session", "-d", "-s", stage, "-x", "50", "-y", str(ROWS), command],
            check=True,
        )
    try:
        for stage, recordings in stages.items():
            ours = recordings[50].last().lines()
            shown: list[str] = []
            deadline = time.monotonic() + 20
            while not (shown and shown[-1].endswith("THE-END")):
                assert time.monotonic() < deadline, shown
                time.sleep(0.1)
                told = subprocess.run(
                    [*tmux, "capture-pane", "-p", "-t", stage, "-S", "-"],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                shown = told.stdout.rstrip().split("\n")
            shown = [line.rstrip() for line in [*shown[:-1], shown[-1].removesuffix("THE-END")]]
            # Its status line takes a row of what it scrolls.
            assert "\n".join(shown).rstrip() == "\n".join(ours), stage
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)
