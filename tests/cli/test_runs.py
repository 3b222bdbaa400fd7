"""`ls`, `show`, `compare`, `rm` and `clean`: on a real record, with files beside it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.run_support import RECORD, write_run
from tests.support import ROOT, Runner
from tuneserve.cli.cache_files import (
    cache_parts,
    foreign_in_folders,
    kept_bases,
    remove_cached,
)
from tuneserve.errors import TuneserveError
from tuneserve.files import OURS, write_json
from tuneserve.finetune.training.checkpoints import mark_replacing
from tuneserve.in_use import use
from tuneserve.overview.run_files import foreign_in, removable_of, remove_run, size_of
from tuneserve.overview.run_summary import summary_of
from tuneserve.run import RunDirectory, all_runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_run("first")
    write_run("second", max_steps=7)
    return tmp_path / "runs"


def test_a_run_in_short_has_what_its_record_says(runs: Path) -> None:
    found = summary_of(RunDirectory.named("first"))
    assert (found.state, found.base, found.data) == (
        "trained, converted, benched", "demo", ["colours.jsonl"],
    )  # fmt: skip
    bench = json.loads(RECORD.read_text())["stages"]["bench"]["result"]
    assert found.figures["accuracy_tuned"] == bench["accuracy"]["tuned"]
    assert found.verdict == bench["verdict"]
    assert found.size_bytes == size_of(runs / "first") > 2080
    assert found.removable_bytes == 2000
    (runs / "second" / "run.json").write_text("{")
    assert summary_of(RunDirectory.named("second")).state.startswith("can't be read: not valid")
    assert {run.name for run in all_runs()} == {"first", "second"}


@pytest.mark.parametrize(
    ("place", "value", "state"),
    [
        (("settings", "data", "more"), None, "trained, converted, benched"),
        (("stages", "bench", "result", "accuracy", "tuned"), 1e309, "trained, converted, benched"),
        (("stages", "train", "result", "steps", "done"), 10**400, "can't be read: not valid JSON"),
        (("name",), "a\x1b[2J", "trained, converted, benched"),
    ],
)
def test_a_damaged_record_stops_no_command_about_runs(
    place: tuple[str, ...], value: Any, state: str, runs: Path, tuneserve: Runner
) -> None:
    run = RunDirectory.named("first")
    record = table = json.loads(run.record_path.read_text())
    for name in place[:-1]:
        table = table[name]
    table[place[-1]] = value
    run.record_path.write_text(json.dumps(record))
    found = summary_of(run)
    assert found.state.startswith(state)
    shown = tuneserve("show", "first", cwd=runs.parent)
    assert shown.returncode == int(state.startswith("can't")), shown.stderr
    assert not {"Traceback", "\x1b"} & {*shown.stderr.split(), *shown.stderr}
    remove_run(run)
    assert not run.root.exists()


def test_only_what_no_run_needs_can_be_removed(runs: Path) -> None:
    run = RunDirectory.named("first")
    (only,) = removable_of(run)
    assert only.path == "runs/first/checkpoints"
    mark_replacing(run.checkpoints, True)  # a training that is to replace this one goes on there
    assert removable_of(run) == []
    mark_replacing(run.checkpoints, False)
    record = json.loads(run.record_path.read_text())
    write_json(run.record_path, {**record, "stages": {}})  # not done
    assert removable_of(run) == []
    write_json(run.record_path, record)
    with run.alone():
        assert removable_of(run) == []
        assert len(removable_of(run, held=True)) == 1
        with pytest.raises(TuneserveError, match="another tuneserve"):
            remove_run(run)


def test_a_run_is_removed_but_for_what_others_made(runs: Path) -> None:
    run = RunDirectory.named("first")
    mine = [run.root / "notes.txt", run.gguf / "mine.gguf", run.checkpoints / "checkpoint-x",
            run.data / "raw", run.root / "later"]  # fmt: skip
    for path in mine:
        path.mkdir() if path.name in ("raw", "later") else path.write_text("mine")
    leftover = run.gguf / ".a.gguf.tuneserve-abcd1234"
    leftover.mkdir()
    (leftover / OURS).touch()
    (run.root / "linked").symlink_to(runs / "second" / "curves.html")
    assert set(remove_run(run)) == {*mine, run.root / "linked"}
    left = {path.relative_to(run.root).as_posix() for path in run.root.rglob("*")}
    assert left == {
        "notes.txt", "gguf", "gguf/mine.gguf", "checkpoints", "checkpoints/checkpoint-x", "data",
        "data/raw", "later", "linked",
    }  # fmt: skip
    other = RunDirectory.named("second")
    assert foreign_in(other) == []
    assert remove_run(other) == []
    assert not other.root.exists()


def test_bases_of_runs_stay_in_the_cache(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("TUNESERVE_CACHE", str(cache))
    used, other, filled = (
        cache / "bases" / f"{name}-v2-{16 * '0'}" for name in ("used", "other", "filled")
    )
    for base in (used, other, filled, cache / "bases" / ".half", cache / "bases" / "mine"):
        base.mkdir(parents=True)
        (base / "config.json").write_text("{}")
    mine = [filled / "tokenizer.json.bak", cache / "bases" / "mine" / "config.json",
            cache / "mine.txt", cache / "loadable" / "mine",
            cache / "data" / "mine.csv", cache / "data" / "hub" / "mine.parquet",
            cache / "unsloth_compiled" / "notes.py", cache / "unsloth_compiled" / "logs" / "a.log",
            cache / "compiled_kernels" / "ab" / "notes.txt"]  # fmt: skip
    unsloth, kernels, key = cache / "unsloth_compiled", cache / "compiled_kernels", "c" + "a7" * 26
    generated = unsloth / "UnslothSFTTrainer.py"
    made = [cache / "loadable" / ("0a" * 16), cache / "data" / "hub" / "a--b--default--x.parquet",
            generated, unsloth / "__pycache__" / "UnslothSFTTrainer.cpython-311.pyc",
            unsloth / "moe_utils.py", unsloth / ".locks" / ".lock.UnslothSFTTrainer.py",
            kernels / "ab" / f"{key}.so.load_ok", kernels / "locks" / f"{key}.lock",
            kernels / "fxgraph" / "ab" / key / key]  # fmt: skip
    for path in (*mine, *made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    generated.write_text('"""\n2026.10.9\n__UNSLOTH_VERSIONING__\n"""\n')
    run = RunDirectory.named("first")
    record = json.loads(run.record_path.read_text())
    record["stages"]["train"]["result"]["base"]["path"] = str(used)
    write_json(run.record_path, record)
    parts = cache_parts([run])
    assert [Path(part.path).name for part in parts] == [
        "unsloth_compiled", "compiled_kernels", "loadable", "hub", other.name,
    ]  # fmt: skip
    assert kept_bases() == mine[:1]
    assert foreign_in_folders() == sorted(mine[3:])
    remove_cached(parts)
    assert not other.exists()
    assert (used / "config.json").is_file()
    assert (filled / "config.json").is_file()
    assert all(path.is_file() for path in mine)
    assert not any(path.exists() for path in made)
    assert not any((unsloth / name).exists() for name in ("__pycache__", ".locks"))
    assert [path.name for path in kernels.iterdir()] == ["ab"]


def test_what_a_process_uses_stays_in_the_cache(
    runs: Path, tmp_path: Path, demo_base: Path, tuneserve: Runner
) -> None:
    """As a training does that prepares: there is no record of its run yet."""
    cache = tmp_path / "cache"
    base, data = cache / "bases" / demo_base.name, cache / "data" / "hub"
    used, other = (data / f"a--{name}--default--train.parquet" for name in ("used", "other"))
    for path in (base / "config.json", used, other, cache / "unsloth_compiled" / "moe_utils.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    script = (
        "from pathlib import Path; from tuneserve.base import resolve_base; "
        "from tuneserve.finetune.data.hub import local_path; from tuneserve.in_use import use; "
        "base = resolve_base('demo').path; local_path(Path('hub:a/used')); "
        "assert use(base.parent.parent / 'unsloth_compiled'); print(base, flush=True); input()"
    )
    env = {"TUNESERVE_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **env},
    ) as user:  # fmt: skip
        assert user.stdout is not None
        assert user.stdout.readline().strip() == str(base)
        parts = ("clean", "--cache", "--yes", "--json")
        done = tuneserve(*parts, cwd=runs.parent, env=env)
        assert done.returncode == 0, done.stderr
        for path in (base, used, cache / "unsloth_compiled"):
            assert f"stays, it is in use by process {user.pid} (" in done.stderr
            assert f"): {path}\n" in done.stderr
            assert str(path) in json.loads(done.stdout)["stays"]
            assert path.exists()
        assert not other.exists()
        user.communicate("\n")
    assert tuneserve(*parts, cwd=runs.parent, env=env).returncode == 0
    assert not any(
        path.exists() for path in (base, used, cache / "unsloth_compiled" / "moe_utils.py")
    )


def test_what_is_used_while_the_cache_is_cleaned_stays(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("TUNESERVE_CACHE", str(cache))
    base = cache / "bases" / f"one-v2-{16 * 'a'}"
    data = cache / "data" / "hub" / "a--b--default--train.parquet"
    for path in (base, data.parent):
        path.mkdir(parents=True)
    data.write_bytes(bytes(7))
    parts = cache_parts([])
    assert use(base)
    assert use(data)
    assert remove_cached(parts) == 0
    assert (base.is_dir(), data.is_file()) == (True, True)
    assert capsys.readouterr().err.count("stays: ") == 2
    assert not use(tmp_path / "nothing")


@pytest.mark.parametrize("why", ["cut", "newer", "set aside", "a path that is none", "at work"])
def test_while_a_run_does_not_tell_its_base_all_stay(
    why: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "bases" / f"one-v2-{16 * 'a'}").mkdir(parents=True)
    run, other = RunDirectory.named("first"), RunDirectory.named("second")
    assert len(cache_parts([run, other])) == 1
    record = json.loads(run.record_path.read_text())
    with contextlib.ExitStack() as stack:
        if why == "cut":
            run.record_path.write_text(run.record_path.read_text()[:-9])
        elif why == "newer":
            write_json(run.record_path, {**record, "schema": 99})
        elif why == "set aside":
            run.record_path.rename(run.root / "run.json.damaged-1")
            assert run.name in [one.name for one in all_runs()]
        elif why == "at work":
            stack.enter_context(run.alone())
        else:
            record["stages"]["train"]["result"]["base"]["path"] = "x\0"
            write_json(run.record_path, record)
        assert cache_parts([run, other]) == []
    assert "imported bases stay: it is not known which of them run first" in capsys.readouterr().err


def test_files_that_are_only_named_like_ours_stay(runs: Path) -> None:
    run = RunDirectory.named("first")
    names = (
        "run.json.bak", "run.json~", "gguf/first-mine.gguf", "gguf/base-x.gguf",
        "adapter/adapter_model.safetensors.bak", "merged/tokenizer_mine.txt", "logs/train-mine.log",
        "bench-journal-mine.jsonl", "tensorboard/events.mine", "bench-ladder/a-mine.gguf",
        "tensorboard/events.out.tfevents.mine",
        "checkpoints/checkpoint-77/README.md", "checkpoints/checkpoint-06/optimizer.pt",
        "checkpoints/checkpoint-6/rng_state_01.pth", "run.json.damaged-01",
    )  # fmt: skip
    for name in names:
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_text("mine")
    remove_run(run)
    left = {path.relative_to(run.root).as_posix() for path in run.root.rglob("*") if path.is_file()}
    assert left == {*names, "checkpoints/checkpoint-6/optimizer.pt"}  # the whole checkpoint


def test_the_commands_ask_before_and_do_what_they_say(runs: Path, tuneserve: Runner) -> None:
    def call(*arguments: str) -> Any:
        return tuneserve(*arguments, cwd=runs.parent)

    listed = call("ls")
    assert "can be removed and every run stays whole: tuneserve clean" in listed.stderr
    named = json.loads(call("ls", "--json").stdout)["runs"]
    assert {run["name"] for run in named} == {"first", "second"}
    shown = json.loads(call("show", "runs/first/", "--json").stdout)
    assert shown["settings"]["train.r"] == 4
    compared = json.loads(call("compare", "first", "second", "--json").stdout)
    assert compared["settings"] == ["train.max_steps was 6, is 7"]
    assert call("compare", "first", "first").returncode == 2
    refused = call("clean")
    assert (refused.returncode, "nobody to ask; pass --yes" in refused.stderr) == (1, True)
    assert len(list(runs.glob("*/checkpoints/checkpoint-*"))) == 4
    done = json.loads(call("clean", "first", "--yes", "--json").stdout)
    assert done["removed"]
    assert done["bytes"] == 2000
    assert list(runs.glob("first/checkpoints/checkpoint-*")) == []
    assert len(list(runs.glob("second/checkpoints/checkpoint-*"))) == 2
    assert call("rm", "second").returncode == 1
    assert (runs / "second" / "run.json").is_file()
    (runs / "first" / "mine").mkdir()
    (runs / "first" / "notes.txt").write_text("mine")
    gone = call("rm", "second", "first", "--yes", "--json")
    assert gone.returncode == 0
    assert "removed: runs/second (" in gone.stderr
    assert "of runs/first; the folder stays" in gone.stderr
    assert "removed: runs/first" not in gone.stderr
    told = json.loads(gone.stdout)
    assert told["kept"] == {"second": [], "first": ["runs/first/mine", "runs/first/notes.txt"]}
    assert told["removed"]["first"] < told["removed"]["second"] - 1000
    assert not (runs / "second").exists()
    assert {path.name for path in (runs / "first").iterdir()} == {"mine", "notes.txt"}
    shutil.rmtree(runs)
    assert "no runs in runs" in call("ls").stderr


def test_a_damaged_run_is_removed_too(runs: Path, tuneserve: Runner) -> None:
    (runs / "second" / "run.json").write_text("{")
    (runs / "second" / "notes.txt").write_text("mine")
    done = tuneserve("rm", "second", "--yes", cwd=runs.parent)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (runs / "second").iterdir()] == ["notes.txt"]


def test_of_a_run_with_two_names_the_other_one_alone_is_removed(
    runs: Path, tuneserve: Runner
) -> None:
    (runs / "alias").symlink_to("first")
    assert removable_of(RunDirectory.named("alias")) == []
    done = tuneserve("rm", "alias", "--yes", cwd=runs.parent)
    assert done.returncode == 0, done.stderr
    assert "a link to the run first, which stays" in done.stderr
    assert not (runs / "alias").is_symlink()
    assert RunDirectory.named("first").require().checkpoints.is_dir()


@pytest.mark.parametrize(
    "name", ["checkpoint-99", "checkpoint-3", "checkpoint-3-good", "checkpoint-03"]
)
def test_checkpoints_with_somebodys_files_stay(name: str, runs: Path, tuneserve: Runner) -> None:
    """And folders and copies that only have such a name; the others go."""
    mine = runs / "first" / "checkpoints" / name
    mine.mkdir(exist_ok=True)
    (mine / "optimizer.pt").touch()
    copied = name in ("checkpoint-3-good", "checkpoint-03")
    kept = mine / ("trainer_state.json" if copied else "adapter_model.safetensors.bak")
    kept.write_text("mine")
    listed = tuneserve("clean", "first", "--dry-run", cwd=runs.parent)
    assert (f"tuneserve did not make it: runs/first/checkpoints/{name}/adapter_m" in listed.stderr
            ) == kept.name.endswith(".bak")  # fmt: skip
    done = tuneserve("clean", "--yes", cwd=runs.parent)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in mine.parent.glob("checkpoint-*")] == [name]
    assert remove_run(RunDirectory.named("first")) == [Path("runs/first/checkpoints") / name]
    assert (kept.read_text(), (mine / "optimizer.pt").is_file()) == ("mine", True)


def test_a_run_that_links_elsewhere_does_not_keep_the_others_from_being_cleaned(
    runs: Path, tuneserve: Runner
) -> None:
    away = runs.parent / "away"
    (runs / "second" / "checkpoints").rename(away)
    (runs / "second" / "checkpoints").symlink_to(away)
    write_run("third")
    (runs / "third" / ".lock").mkdir()
    done = tuneserve("clean", "--yes", "--json", cwd=runs.parent)
    assert done.returncode == 1
    assert "left as it is: runs/second: has a link to a folder elsewhere" in done.stderr
    assert "left as it is: runs/third/.lock: is a folder where a lock file has" in done.stderr
    told = json.loads(done.stdout)
    assert (list(told["left"]), told["removed_bytes"]) == (["second", "third"], 2000)
    assert [len(list(runs.glob(f"{name}/checkpoints/checkpoint-*"))) for name in
            ("first", "second", "third")] == [0, 2, 2]  # fmt: skip
    for name in ("second", "third"):
        shutil.rmtree(runs / name)
    assert tuneserve("clean", "--yes", cwd=runs.parent).returncode == 0


def test_a_folder_in_the_place_of_a_lock_is_one_error(runs: Path, tuneserve: Runner) -> None:
    (runs / "first" / ".lock").mkdir()
    done = tuneserve("rm", "--yes", "first", cwd=runs.parent)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "error: runs/first/.lock: is a folder where a lock file has to be\n  Move it away.\n"
    )
    with pytest.raises(TuneserveError, match="where a lock file has to be"):
        RunDirectory.named("first").check_writable()  # a stage, before it loads anything
    assert {one.name: one.state.partition(",")[0] for one in map(summary_of, all_runs())} == {
        "first": "trained", "second": "trained",
    }  # fmt: skip


def test_links_to_nothing_are_named_and_removed(runs: Path, tuneserve: Runner) -> None:
    (runs / "gone").symlink_to(runs / "away" / "gone")
    (runs / "other").symlink_to("removed")
    (runs / "round").symlink_to("round")
    (runs / "second" / "run.json").unlink()
    (runs / "second" / "run.json").symlink_to("/nowhere/run.json")
    listed = tuneserve("ls", "--json", cwd=runs.parent)
    states = {run["name"]: run["state"] for run in json.loads(listed.stdout)["runs"]}
    for name in ("gone", "other", "round", "second"):
        assert states[name].startswith("can't be read: is a link to nothing (")
        shown = tuneserve("show", name, cwd=runs.parent)
        assert (shown.returncode, "remove it: tuneserve rm" in shown.stderr) == (2, True)
    assert tuneserve("clean", "--yes", cwd=runs.parent).returncode == 0
    names = ["gone", "other", "round", "second"]
    done = tuneserve("rm", *names, "--yes", cwd=runs.parent)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in runs.iterdir()] == ["first"]
