from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    return RunDirectory.named("first")


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b", ".hidden"])
def test_names_that_leave_the_directory_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="name has letters"):
        RunDirectory.named(name)


def test_missing_run_names_those_that_exist(run: RunDirectory) -> None:
    run.save_settings(Recipe())
    with pytest.raises(UsageError) as caught:
        RunDirectory.named("second").require()
    assert "Runs here: first." in caught.value.render()


def test_stage_result_is_recorded_only_on_success(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="boom"), run.stage("train"):
        raise ValueError("boom")
    with pytest.raises(UsageError, match="tuneserve train --run first"):
        run.require_stage("train")
    with run.stage("train") as record:
        record.result = {"loss": 1.5}
    assert run.require_stage("train") == {"loss": 1.5}
    assert run.read()["versions"]["tuneserve"]


def test_running_a_stage_again_withdraws_later_results(run: RunDirectory) -> None:
    for stage in ("train", "convert", "bench"):
        with run.stage(stage) as record:
            record.result = {"of": stage}
    with run.stage("convert") as record:
        assert set(run.read()["stages"]) == {"train"}
        record.result = {"of": "again"}
    assert set(run.read()["stages"]) == {"train", "convert"}


def test_a_stage_that_replaces_its_files_at_its_end_keeps_its_record_until_then(
    run: RunDirectory,
) -> None:
    for stage in ("train", "convert", "bench"):
        with run.stage(stage) as record:
            record.result = {"of": stage}
    with pytest.raises(ValueError, match="boom"), run.stage("convert", keep=True):
        raise ValueError("boom")
    assert set(run.read()["stages"]) == {"train", "convert", "bench"}
    with run.stage("convert", keep=True) as record:
        record.withdraw()
        assert set(run.read()["stages"]) == {"train"}
    assert set(run.read()["stages"]) == {"train", "convert"}


def test_two_processes_do_not_work_on_one_run(run: RunDirectory) -> None:
    code = f"""
from pathlib import Path
from tuneserve.run import RunDirectory
with RunDirectory(Path({str(run.root)!r})).alone():
    pass
"""
    command = [sys.executable, "-c", code]
    with run.alone():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "another tuneserve is working on this run" in done.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_damaged_record_is_one_clear_error(run: RunDirectory) -> None:
    run.save_settings(Recipe())
    run.record_path.write_text('{"name": "first",\n oops')
    with pytest.raises(TuneserveError, match=r"run\.json:2: not valid JSON"):
        run.read()


def test_settings_are_read_back(run: RunDirectory) -> None:
    recipe = Recipe.model_validate({"train": {"r": 3}})
    run.save_settings(recipe)
    assert Recipe.model_validate(run.saved_settings()) == recipe
