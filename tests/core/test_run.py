from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tuneserve as tuneserve_package
from tests.support import Runner
from tuneserve.bench.result import BenchResult
from tuneserve.convert.result import AdapterResult, ConvertResult
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import OURS, atomic_path
from tuneserve.finetune.training.result import TrainResult
from tuneserve.records import Record
from tuneserve.run import RUN_SCHEMA, RunDirectory
from tuneserve.settings import DataSettings, Recipe


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    return RunDirectory.named("first")


def test_what_killed_stages_left_is_cleared_by_the_next(run: RunDirectory, tmp_path: Path) -> None:
    """In every folder of the run, and in none that lies elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    places = [run.root, run.gguf, run.checkpoints / "checkpoint-3", elsewhere]

    def leave() -> list[Path]:
        left = [place / ".a.json.tuneserve-abcd1234" for place in places]
        for folder in left:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / OURS).touch()
            (folder / "a.json").touch()
        return left

    left = leave()
    with run.alone():
        assert [path.exists() for path in left] == [False, False, False, True]
    leave()
    (run.gguf / "linked").symlink_to(elsewhere)
    run.tidy()
    assert [path.exists() for path in left] == [False, False, False, True]


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b", ".hidden"])
def test_names_that_leave_the_directory_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="name has letters"):
        RunDirectory.named(name)


@pytest.mark.parametrize("given", ["runs/first", "runs/first/", "./runs/first", "first/"])
def test_a_run_is_named_by_its_folder_too(run: RunDirectory, given: str) -> None:
    assert RunDirectory.named(given).root == run.root
    assert RunDirectory.named(str(Path.cwd() / "runs" / "first")).root == run.root


@pytest.mark.parametrize("given", ["other/first", "runs/a/b", "runs/..", "runs/-x", "/first"])
def test_a_folder_that_holds_no_runs_names_none(run: RunDirectory, given: str) -> None:
    with pytest.raises(UsageError, match="name has letters"):
        RunDirectory.named(given)


def test_runs_lie_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESERVE_RUNS", str(tmp_path / "all"))
    run = RunDirectory.named("first")
    assert run.root == tmp_path / "all" / "first"
    run.save_settings(Recipe())
    assert RunDirectory.named(f"{tmp_path}/all/first/").require().root == run.root
    with pytest.raises(UsageError, match="Runs here: first"):
        RunDirectory.named("second").require()


def test_what_training_did_with_thoughts_is_known_afterwards(run: RunDirectory) -> None:
    assert run.thoughts == "train"
    run.save_settings(Recipe(data=DataSettings(thoughts="drop")))
    assert run.thoughts == "drop"


def test_missing_run_names_those_that_exist(run: RunDirectory) -> None:
    run.save_settings(Recipe())
    with pytest.raises(UsageError) as caught:
        RunDirectory.named("second").require()
    assert "Runs here: first." in caught.value.render()


def test_stage_result_is_recorded_only_on_success(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="boom"), run.stage("train"):
        raise ValueError("boom")
    with pytest.raises(UsageError, match="tuneserve train --run first"):
        run.require_stage("train", Record)
    with run.stage("train") as record:
        record.result = Record(loss=1.5)
    assert run.require_stage("train", Record) == Record(loss=1.5)
    assert run.read().versions["tuneserve"] == tuneserve_package.__version__


def test_running_a_stage_again_withdraws_later_results(run: RunDirectory) -> None:
    for stage in ("train", "convert", "bench"):
        with run.stage(stage) as record:
            record.result = Record(of=stage)
    with run.stage("convert") as record:
        assert set(run.read().stages) == {"train"}
        record.result = Record(of="again")
    assert set(run.read().stages) == {"train", "convert"}


def test_a_stage_that_replaces_its_files_at_its_end_keeps_its_record_until_then(
    run: RunDirectory,
) -> None:
    for stage in ("train", "convert", "bench"):
        with run.stage(stage) as record:
            record.result = Record(of=stage)
    with pytest.raises(ValueError, match="boom"), run.stage("convert", keep=True):
        raise ValueError("boom")
    assert set(run.read().stages) == {"train", "convert", "bench"}
    with run.stage("convert", keep=True) as record:
        record.withdraw()
        assert set(run.read().stages) == {"train"}
    assert set(run.read().stages) == {"train", "convert"}


def test_two_processes_do_not_work_on_one_run(run: RunDirectory) -> None:
    code = f"""
from pathlib import Path
from tuneserve.run import RunDirectory
with RunDirectory(Path({str(run.root)!r})).alone():
    pass
"""
    command = [sys.executable, "-c", code]
    run.check_idle()
    with run.alone():
        with pytest.raises(TuneserveError, match=f"working on this run: .*{os.getpid()}"):
            run.check_idle()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "another tuneserve is working on this run" in done.stderr
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize("place", ["gguf", "checkpoints", "data", "bench", "bench/sweep"])
def test_a_folder_that_lies_elsewhere_is_not_written_to(
    run: RunDirectory, tmp_path: Path, place: str
) -> None:
    mine = tmp_path / "mine"
    (mine / "checkpoint-1").mkdir(parents=True)
    link = run.root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(mine, target_is_directory=True)
    with pytest.raises(UsageError, match="a link to a folder elsewhere") as caught, run.alone():
        pass
    assert caught.value.problems == [f"{link} -> {mine}"]
    assert [path.name for path in tmp_path.glob("mine/*")] == ["checkpoint-1"]


def test_links_within_a_run_and_of_the_whole_run_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "gguf").mkdir(parents=True)
    (tmp_path / "disk" / "old").symlink_to(tmp_path / "disk" / "gguf", target_is_directory=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk", target_is_directory=True)
    with RunDirectory(tmp_path / "run").alone():
        pass


def test_a_link_to_a_file_is_replaced_itself(tmp_path: Path) -> None:
    mine, made = tmp_path / "mine.gguf", tmp_path / "made.gguf"
    mine.write_text("mine")
    made.symlink_to(mine)
    with atomic_path(made) as temporary:
        temporary.write_text("made")
    assert (mine.read_text(), made.read_text(), made.is_symlink()) == ("mine", "made", False)


def test_damaged_record_is_one_clear_error(run: RunDirectory) -> None:
    run.save_settings(Recipe())
    run.record_path.write_text('{"name": "first",\n oops')
    with pytest.raises(TuneserveError, match=r"run\.json:2: not valid JSON"):
        run.read()


def test_settings_are_read_back(run: RunDirectory) -> None:
    recipe = Recipe.model_validate({"train": {"r": 3}})
    run.save_settings(recipe)
    assert Recipe.model_validate(run.saved_settings()) == recipe


# A trained, converted and benchmarked run, made before run.json had a schema number.
SCHEMA_0 = Path(__file__).with_name("run-schema-0.json")


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.named("colours")
    run.root.mkdir(parents=True)
    shutil.copy(SCHEMA_0, run.record_path)
    return run


def content_of(run: RunDirectory) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run.record_path.read_text(encoding="utf-8"))
    return content


def test_a_run_without_a_schema_number_is_read(old_run: RunDirectory) -> None:
    written = content_of(old_run)
    train = old_run.require_stage("train", TrainResult)
    assert train.base.name == "SmolLM2-135M-Instruct"
    assert train.losses.eval[0] == (0, 5.266050656636556)
    convert = old_run.require_stage("convert", ConvertResult)
    assert convert.tuned.quantization == "Q4_K_M"
    assert all(check.passed for check in convert.verification)
    bench = old_run.require_stage("bench", BenchResult)
    assert bench.accuracy.tuned == 0.3
    # What was read is told as it was written, digit for digit.
    for stage, result in (("train", train), ("convert", convert), ("bench", bench)):
        told = json.dumps(result.to_json(), sort_keys=True)
        assert told == json.dumps(written["stages"][stage]["result"], sort_keys=True)
    lora = AdapterResult.model_validate(old_run.read().lora)
    assert lora.to_json() == written["lora"]
    assert Recipe.model_validate(old_run.saved_settings()).train.r == 4


def test_what_this_release_does_not_know_is_kept(old_run: RunDirectory) -> None:
    """Keys that a later release wrote into a record of the same schema, at every depth."""
    content = {**content_of(old_run), "schema": RUN_SCHEMA, "later": [1]}
    content["stages"]["train"]["host"] = "here"
    content["stages"]["train"]["result"]["base"]["licence"] = "free"
    old_run.record_path.write_text(json.dumps(content))
    base = old_run.require_stage("train", TrainResult).to_json()["base"]
    assert base["licence"] == "free"
    recipe = Recipe.model_validate(old_run.saved_settings())
    old_run.save_settings(recipe)
    with old_run.stage("bench") as running:
        running.result = Record(again=True)
    written = content_of(old_run)
    assert written["schema"] == RUN_SCHEMA
    assert (written["later"], written["lora"]) == ([1], content["lora"])
    for stage in ("train", "convert"):
        assert written["stages"][stage] == content["stages"][stage]
    assert written["stages"]["bench"]["result"] == {"again": True}


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--file", "data.jsonl"),
        ("train", "--file", "data.jsonl", "--force"),
        ("convert", "--force"),
        ("convert", "--adapter-only"),
        ("serve",),
        ("bench", "--force"),
    ],
)
def test_a_record_of_a_newer_release_is_refused_before_anything_is_written(
    old_run: RunDirectory, tuneserve: Runner, arguments: tuple[str, ...]
) -> None:
    (old_run.root.parent.parent / "data.jsonl").write_text('{"instruction": "a", "output": "b"}')
    old_run.adapter.mkdir()
    old_run.record_path.write_text(json.dumps({**content_of(old_run), "schema": RUN_SCHEMA + 1}))
    before = {path: path.stat().st_mtime_ns for path in old_run.root.rglob("*")}
    command, *options = arguments
    done = tuneserve(command, "--run", "colours", *options, cwd=old_run.root.parent.parent)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: runs/colours/run.json: a newer tuneserve wrote this file: its schema is "
        f"{RUN_SCHEMA + 1}, this release reads schemas up to {RUN_SCHEMA}\n  Upgrade tuneserve"
    )
    assert {path: path.stat().st_mtime_ns for path in old_run.root.rglob("*")} == before


def test_a_record_of_another_form_is_one_clear_error(old_run: RunDirectory) -> None:
    content = content_of(old_run)
    for schema in ("2", True, -1, None, 1.0):
        old_run.record_path.write_text(json.dumps({**content, "schema": schema}))
        with pytest.raises(TuneserveError, match="is no schema number"):
            old_run.read()
    old_run.record_path.write_text("[]")
    with pytest.raises(TuneserveError, match="holds no JSON object"):
        old_run.read()
    del content["stages"]["train"]["result"]["base"]["path"]
    old_run.record_path.write_text(json.dumps(content))
    with pytest.raises(TuneserveError, match="not in the form") as caught:
        old_run.require_stage("train", TrainResult)
    assert caught.value.where == "runs/colours/run.json, result of 'train'"
    assert caught.value.problems == ["base.path: Field required"]
    assert "tuneserve train --run colours --force" in caught.value.hint
    content["stages"] = ["train"]
    old_run.record_path.write_text(json.dumps(content))
    with pytest.raises(TuneserveError, match="not in the form"):
        old_run.read()


def test_a_checkout_that_is_not_installed_has_no_version(tmp_path: Path) -> None:
    (tmp_path / "tuneserve").mkdir()
    shutil.copy(str(tuneserve_package.__file__), tmp_path / "tuneserve" / "__init__.py")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tuneserve as t; "
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code + "print(t.__version__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == "0+unknown\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"stages": "\xe9"}', "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_a_damaged_record_is_one_clear_error(
    old_run: RunDirectory, content: bytes, message: str
) -> None:
    old_run.record_path.write_bytes(content)
    with pytest.raises(TuneserveError, match=message) as caught:
        old_run.read()
    assert caught.value.where.startswith(str(old_run.record_path))
    assert "Restore it" in caught.value.hint


def test_a_byte_order_mark_is_no_content(old_run: RunDirectory) -> None:
    known = old_run.read()
    old_run.record_path.write_bytes(b"\xef\xbb\xbf" + old_run.record_path.read_bytes())
    assert old_run.read() == known


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_record_holds_no_number_that_json_has_not(run: RunDirectory, value: float) -> None:
    run.update(name="first")
    before = run.record_path.read_bytes()
    stages = {"bench": {"result": {"losses": [[0, 1.5], [2, value]]}}}
    with pytest.raises(TuneserveError, match=r"stages\.bench\.result\.losses\.1\.1 is no finite"):
        run.update(stages=stages)
    assert run.record_path.read_bytes() == before


def test_a_run_that_can_not_be_written_is_told_and_nothing_is_made(
    run: RunDirectory, tmp_path: Path
) -> None:
    run.check_writable()
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(TuneserveError, match="is a file where a folder has to be") as caught:
        run.check_writable()
    assert caught.value.where == str(tmp_path / "runs")
    with pytest.raises(TuneserveError, match="can't be written") as caught:
        RunDirectory(Path("/proc/self/x")).check_writable()
    assert caught.value.where == "/proc/self"


def test_settings_of_auto_that_an_earlier_release_kept_have_no_effect(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "old")
    run.root.mkdir()
    convert = {"quantization": "Q4_K_M", "mix_tokens": 2048, "mix_tries": 60, "max_kld": 0.5}
    run.update(settings={"convert": convert})
    assert run.saved_settings() == {"convert": {"quantization": "Q4_K_M", "max_kld": 0.5}}
    run.update(settings={"convert": {**convert, "quantization": "auto"}})
    assert run.saved_settings()["convert"]["mix_tokens"] == 2048


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 300, b"[]", b'{"name": "\xff"}', b'{"schema": 1, "na', b'{"stages": 3}'],
)
def test_a_damaged_record_is_kept_beside_the_new_one(run: RunDirectory, content: bytes) -> None:
    run.root.mkdir(parents=True)
    run.record_path.write_bytes(content)
    with pytest.raises(TuneserveError) as caught:
        run.read()
    assert "tuneserve train --run first --force" in caught.value.hint
    run.set_aside_damaged()
    run.set_aside_damaged()
    assert run.read().name == ""
    aside = run.root / "run.json.damaged-1"
    assert aside.read_bytes() == content
    run.record_path.write_bytes(b"[")
    run.set_aside_damaged()
    assert aside.read_bytes() == content
    assert (run.root / "run.json.damaged-2").read_bytes() == b"["


def test_the_record_of_a_newer_release_is_not_set_aside(run: RunDirectory) -> None:
    run.root.mkdir(parents=True)
    run.record_path.write_text('{"schema": 1000}')
    with pytest.raises(UsageError, match="newer tuneserve"):
        run.set_aside_damaged()
    assert run.record_path.is_file()
