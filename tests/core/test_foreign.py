"""What a run directory of somebody else's says: nothing of it runs, sends, listens or writes."""

from __future__ import annotations

import ast
import os
import pickle
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support import Runner
from tuneserve.cli.common import allow_code_option, config_option
from tuneserve.convert.result import ConvertInputs, GGUFRecord
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import write_json
from tuneserve.foreign import REACHING_OUT
from tuneserve.options import resolve_settings, settings_options
from tuneserve.overview.run_files import removable_of, remove_run
from tuneserve.overview.run_summary import summary_of
from tuneserve.records import read_numbered_lines
from tuneserve.run import RunDirectory
from tuneserve.settings import (
    BenchSettings,
    ConvertSettings,
    Recipe,
    Section,
    ServeSettings,
    TrackingSettings,
)

SCORER = {"bench": {"task": "python", "scorer": "runs/a/evil.py:score"}}


def settle(saved: dict[str, Any], *options: str) -> Recipe:
    """What a command with all options works with, for a run's saved settings."""
    captured: list[Recipe] = []

    @click.command()
    @config_option
    @allow_code_option
    @settings_options("convert", "serve", "bench", "tracking")
    @click.pass_context
    def command(context: click.Context, /, config: Path | None, **_: Any) -> None:
        captured.append(resolve_settings(context, saved=saved, recipe=config))

    command.main(list(options), standalone_mode=False)
    return captured[0]


def test_code_of_a_run_is_shown_and_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="came with the run") as caught:
        settle(SCORER)
    assert caught.value.problems == ["bench.scorer = 'runs/a/evil.py:score' runs code"]
    assert "--allow-code" in caught.value.hint
    assert settle(SCORER, "--allow-code").bench.scorer == "runs/a/evil.py:score"
    assert "evil.py:score" in capsys.readouterr().err
    # What this user says themselves needs nothing more.
    assert settle(SCORER, "--scorer", "mine.py:f").bench.scorer == "mine.py:f"
    assert settle(SCORER, "--task", "exact").bench.task == "exact"


def test_a_recipe_of_the_users_own_is_their_word_and_one_in_a_run_is_not(tmp_path: Path) -> None:
    text = '[bench]\ntask = "python"\nscorer = "runs/a/evil.py:score"\n'
    own, inside = tmp_path / "own.toml", tmp_path / "runs" / "a" / "deep" / "recipe.toml"
    inside.parent.mkdir(parents=True)
    write_json(tmp_path / "runs" / "a" / "run.json", {})
    for path in (own, inside):
        path.write_text(text)
    assert settle(SCORER, "--config", str(own)).bench.task == "python"
    (tmp_path / "link.toml").symlink_to(inside)
    for path in (inside, tmp_path / "link.toml"):
        with pytest.raises(UsageError, match="came with the run"):
            settle({}, "--config", str(path))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("convert", "converter", "runs/a/convert.py"),
        ("bench", "endpoint", "http://evil.example/v1"),
        ("bench", "judge", "http://evil.example/v1"),
        ("serve", "host", "0.0.0.0"),
        ("serve", "cors_origins", ["*"]),
        ("serve", "api_key_file", "runs/a/known.txt"),
        ("serve", "batch_dir", "/home/user"),
        ("serve", "log_prompts", True),
        ("serve", "replicas", 50),
        ("serve", "prefix_disk", "900G"),
        ("tracking", "track_address", "http://evil.example"),
        ("tracking", "track_online", True),
    ],
)
def test_what_else_reaches_out_of_the_run(section: str, name: str, value: Any) -> None:
    with pytest.raises(UsageError, match="came with the run") as caught:
        settle({section: {name: value}})
    assert f"--{name.replace('_', '-')}" in caught.value.hint
    option = f"--{name.replace('_', '-')}"
    words = (
        [option] if value is True else [option, str(value[0] if isinstance(value, list) else value)]
    )
    assert settle({section: {name: value}}, *words)


def test_every_setting_that_names_a_file_or_an_address_is_decided_about() -> None:
    """A new setting has to be put either into the table or here."""
    reads = {("serve", "draft")}  # a model file, checked as every model file is
    models: dict[str, type[Section]] = {
        "convert": ConvertSettings,
        "serve": ServeSettings,
        "bench": BenchSettings,
        "tracking": TrackingSettings,
    }
    paths = {
        (section, name)
        for section, model in models.items()
        for name, field in model.model_fields.items()
        if "Path" in str(field.annotation)
    }
    assert paths - reads <= REACHING_OUT.keys()
    for section, name in REACHING_OUT:
        assert name in models[section].model_fields


def test_bench_does_not_run_the_code_of_a_run(tuneserve: Runner, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "a")
    run.root.mkdir(parents=True)
    (run.root / "evil.py").write_text("open('ran', 'w')\ndef score(a, r): return 1.0\n")
    run.save_settings(Recipe.model_validate(SCORER))
    done = tuneserve("bench", "--run", "a", cwd=tmp_path)
    assert done.returncode == 2
    assert "bench.scorer = 'runs/a/evil.py:score' runs code" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..", ""])
def test_run_json_names_no_files_outside_the_run(name: str) -> None:
    with pytest.raises(ValueError, match="names a file outside"):
        ConvertInputs(base="b", adapter={name: ""})
    with pytest.raises(ValueError, match="quantization"):
        GGUFRecord(path="x", size_bytes=1, sha256="", quantization=f"x/{name}")


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("name", ["bench-journal.jsonl", "run.json", "progress.jsonl"])
def test_a_run_that_holds_a_pipe_or_a_device_is_refused(
    kind: str, name: str, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "a")
    run.update()
    run.require()
    place = run.root / name
    place.unlink(missing_ok=True)
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/dev/zero")
    assert summary_of(run).state.startswith("can't be read: holds what is no file")
    with pytest.raises(UsageError, match="no file") as caught:
        run.require()
    assert caught.value.problems == [str(place)]


PRODUCT = [
    path
    for room in ("tuneserve", "finetune", "convert", "serve", "bench")
    for path in sorted((Path(__file__).parents[2] / room).rglob("*.py"))
]
CODE_READERS = {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}


def test_no_code_comes_out_of_data() -> None:
    """Nothing of ours unpickles, evaluates text, trusts a checkpoint's code or starts a shell."""
    allowed = {("python_child.py", "exec"), ("streamed_model.py", "eval")}
    found = []
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                module = getattr(node, "module", None) or ""
                if CODE_READERS & {*names, module}:
                    found.append(f"{path}:{node.lineno} imports a reader of pickles")
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("eval", "exec") and (path.name, called) not in allowed:
                found.append(f"{path}:{node.lineno} {called}")
            if called.endswith("torch.load") or called in ("yaml.load", "os.system", "os.popen"):
                found.append(f"{path}:{node.lineno} {called}")
            for word in node.keywords:
                trusts = word.arg in ("trust_remote_code", "allow_pickle", "shell")
                if trusts and ast.unparse(word.value) != "False":
                    found.append(f"{path}:{node.lineno} {word.arg}")
    assert not found


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_torch_refuses_a_pickle_with_code_in_a_checkpoint(tmp_path: Path) -> None:
    """How optimizer.pt, scheduler.pt and a .bin of weights are read by the training libraries."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "optimizer.pt"
    torch.save({"state": _Runs(tmp_path / "ran")}, path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(path)  # the default of every release that pyproject.toml admits
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_record_without_end_is_not_read(kind: str, tmp_path: Path) -> None:
    """By whatever lists runs, or asks for one by name."""
    run = RunDirectory(tmp_path / "runs" / "a")
    run.root.mkdir(parents=True)
    os.mkfifo(run.record_path) if kind == "pipe" else run.record_path.symlink_to("/dev/zero")
    with pytest.raises(TuneserveError, match="no file but a device"):
        run.read()
    with pytest.raises(TuneserveError, match="no file but a device"):
        read_numbered_lines(run.record_path, hint="")
    assert removable_of(run) == []
    assert remove_run(run) == []
    assert not run.root.exists()


def test_a_record_that_is_a_folder_stops_no_list(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "a")
    run.record_path.mkdir(parents=True)
    (run.record_path / "mine").touch()
    assert summary_of(run).state.startswith("can't be read")
    assert removable_of(run) == []
    assert remove_run(run) == [run.record_path]
    assert (run.record_path / "mine").is_file()


def test_a_record_larger_than_any_is_not_read(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "a")
    run.update()
    os.truncate(run.record_path, 3 << 30)
    with pytest.raises(TuneserveError, match="too large"):
        run.read()
