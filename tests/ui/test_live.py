"""A real training, started by the form's request, watched, stopped, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.finetune.training.variants import make_small
from tests.support import ModulePaths
from tests.ui.ui_support import RunningUI, running_ui, wait_until
from tuneserve.finetune.training.checkpoints import has_checkpoints

pytestmark = pytest.mark.slow

SETTINGS = {
    "model": {"base": "tiny", "max_seq_length": 64},
    "data": {"file": "colours.jsonl", "eval_fraction": 0.2, "test_fraction": 0.2,
             "least_held_out": 0},
    "train": {"r": 4, "batch_size": 2, "max_steps": 100_000, "evaluations": 500,
              "compile": "false", "early_stopping_patience": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def live(module_paths: ModulePaths, demo_base: Path) -> Iterator[RunningUI]:
    folder = module_paths.mktemp("live")
    (folder / "tiny").mkdir()
    make_small(demo_base, folder / "tiny")
    rows = [
        {"instruction": f"Which colour has number {i}?", "output": "red" * (i % 3 + 1)}
        for i in range(40)
    ]
    (folder / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with running_ui(folder) as running:
        yield running


def figures(ui: RunningUI) -> dict[str, str]:
    run = ui.get("api/runs/mine").json()
    found: dict[str, str] = dict(run.get("training", {}).get("figures", ()))
    return found


def test_a_training_is_started_watched_stopped_and_goes_on(live: RunningUI) -> None:
    given = {"stage": "train", "settings": SETTINGS}
    assert live.send("api/runs/mine/start", given).json()["state"] == "running"
    again = live.send("api/runs/mine/start", given)
    assert (again.status_code, "is being worked on" in again.text) == (409, True)
    wait_until(lambda: "general" not in figures(live) and "speed" in figures(live), 120)
    run: dict[str, Any] = live.get("api/runs/mine").json()
    shown = figures(live)
    assert (run["at_work"], run["state"].startswith("at work: process ")) == ("train", True)
    assert {"step", "epoch", "loss", "eval loss", "speed", "memory", "left"} <= set(shown)
    assert [title for title, _ in run["charts"]] == ["Loss per answer token", "Speed", "Memory"]
    assert "loading Unsloth" in live.get("api/runs/mine/logs/train").json()["text"]

    assert "saves a checkpoint" in live.send("api/runs/mine/stop").json()["said"]
    second = live.send("api/runs/mine/stop")
    assert second.status_code == 409
    ended = live.ended("mine")
    assert ended["state"] == "stopped"
    assert "it is saved" in ended["said"]
    root = live.folder / "runs" / "mine"
    assert has_checkpoints(root / "checkpoints")
    steps = [json.loads(line)["step"] for line in
             (root / "progress.jsonl").read_text().splitlines()[1:]]  # fmt: skip
    assert steps == sorted(steps)
    assert "left" not in figures(live)
    assert live.get("api/state").json()["runs"][0]["state"] == "training stopped, goes on"
