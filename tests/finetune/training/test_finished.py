"""When a training counts as done, whatever has become of its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tuneserve.errors import UsageError
from tuneserve.finetune.data.hub import HubData
from tuneserve.finetune.data.prepare import data_hash
from tuneserve.finetune.training.checkpoints import claim, is_replacing, mark_replacing
from tuneserve.finetune.training.finished import finished_result, was_cut_off
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe

EXAMPLE = '{"instruction": "a", "output": "b"}\n'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    # Nothing here may ask the hub.
    monkeypatch.setattr("tuneserve.finetune.data.hub.fetch", lambda *_: pytest.fail("fetched"))
    return RunDirectory.named("x")


def finish(run: RunDirectory, **data: Any) -> Recipe:
    """The run, trained on the data as it is now."""
    recipe = Recipe.model_validate({"data": data})
    record = json.loads((ROOT / "tests" / "core" / "run-schema-0.json").read_text())
    stage = record["stages"]["train"]
    stage["result"]["data"]["sha256"] = data_hash(recipe.data)
    run.save_settings(recipe)
    run.update(stages={"train": stage})
    run.adapter.mkdir()
    return recipe


def test_the_same_data_of_the_hub_is_done_already(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = HubData("owner/name", None, "train").cached
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"rows")
    recipe = finish(run, file="hub:owner/name")
    assert finished_result(recipe, run) is not None
    assert capsys.readouterr().err == "runs/x/adapter: done already\n"
    cached.write_bytes(b"other rows")
    assert finished_result(recipe, run) is None
    cached.unlink()
    assert finished_result(recipe, run) is not None
    assert "done already (hub:owner/name: not here any more" in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["a.jsonl", "b.jsonl", "general.jsonl", "wordings.txt"])
def test_data_that_is_gone_can_not_be_compared(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    for name in ("a.jsonl", "b.jsonl", "general.jsonl", "wordings.txt"):
        Path(name).write_text(EXAMPLE)
    recipe = finish(
        run, file="a.jsonl", more=["b.jsonl*2"], general="general.jsonl", wordings="wordings.txt"
    )
    assert finished_result(recipe, run) is not None
    capsys.readouterr()
    Path(gone).unlink()
    assert finished_result(recipe, run) is not None
    told = f"runs/x/adapter: done already ({gone}: not here any more, so not compared)\n"
    assert capsys.readouterr().err == told


def test_changed_data_and_other_settings_are_not_done(run: RunDirectory) -> None:
    Path("a.jsonl").write_text(EXAMPLE)
    recipe = finish(run, file="a.jsonl")
    other = Recipe.model_validate({"data": {"file": "a.jsonl"}, "train": {"r": 8}})
    assert finished_result(other, run) is None
    Path("a.jsonl").write_text(EXAMPLE * 2)
    assert finished_result(recipe, run) is None
    Path("a.jsonl").write_text(EXAMPLE)
    assert finished_result(recipe, run) is not None
    run.adapter.rmdir()
    assert finished_result(recipe, run) is None


def test_an_unfinished_replacement_goes_on_beside_the_finished_adapter(run: RunDirectory) -> None:
    Path("a.jsonl").write_text(EXAMPLE)
    finish(run, file="a.jsonl")
    identity = {"settings": {}, "base": "b"}
    claim(run.checkpoints, identity)
    mark_replacing(run.checkpoints, True)
    assert was_cut_off(run)  # killed before its first checkpoint
    assert claim(run.checkpoints, identity) is None
    with pytest.raises(UsageError, match="an unfinished training"):
        claim(run.checkpoints, {**identity, "base": "another"})
    mark_replacing(run.checkpoints, False)
    checkpoint = run.checkpoints / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        (checkpoint / name).write_text("{}")
    assert not was_cut_off(run)  # these are the finished training's own
    mark_replacing(run.checkpoints, True)
    assert was_cut_off(run)
    mark_replacing(run.checkpoints, False)
    assert not is_replacing(run.checkpoints)
    run.update(stages={})
    assert was_cut_off(run)
