from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT, Runner
from tuneserve.cli import COMMANDS, cli, reference
from tuneserve.recipe import shipped_recipes


def test_help_is_immediate(tuneserve: Runner) -> None:
    tuneserve("--help")  # warm the disk cache
    started = time.monotonic()
    done = tuneserve("--help")
    seconds = time.monotonic() - started
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    # 0.3 s on an idle machine; this one may be busy.
    assert seconds < 1.0


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_explain_themselves_without_heavy_imports(tuneserve: Runner, command: str) -> None:
    done = tuneserve(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: tuneserve" in done.stdout


def test_no_heavy_import_behind_help() -> None:
    script = (
        "import sys\n"
        "from tuneserve.cli import cli\n"
        f"for name in {list(COMMANDS)!r}: cli.get_command(None, name)\n"
        "heavy = {'torch', 'unsloth', 'llama_cpp', 'transformers', 'fastapi',"
        " 'scipy', 'openai', 'datasets', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_reports_are_read_without_scipy() -> None:
    """It takes a second, and every command that lists what a run holds reads them."""
    script = (
        "import sys\n"
        "import tuneserve.overview.run_files, tuneserve.bench.stage\n"
        "print('scipy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


def test_wrong_command_suggests_the_nearest(tuneserve: Runner) -> None:
    done = tuneserve("tarin")
    assert done.returncode == 2
    assert "did you mean 'train'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_error_is_one_line_and_debug_shows_more(tuneserve: Runner, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[train]\nlearnin_rate = 1\n")
    done = tuneserve("train", "--config", str(recipe), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {recipe}:2: unknown key 'train.learnin_rate' (did you mean 'learning_rate'?)\n"
    )
    assert "Traceback" in tuneserve("train", "--config", str(recipe), "--debug").stderr


@pytest.mark.parametrize("command", ["plan", "preview", "train", "convert", "serve", "bench"])
def test_a_recipe_that_comes_along_is_found_by_its_name(command: str) -> None:
    parent = cli.make_context("tuneserve", [command])
    found = cli.get_command(parent, command)
    assert found is not None
    with found.make_context(command, ["--config", "sentiment"], parent=parent) as context:
        assert context.params["config"] == shipped_recipes()["sentiment"]


def test_reference_pages_are_what_the_code_says() -> None:
    for name, page in (
        ("settings.md", reference.settings_page()),
        ("commands.md", reference.commands_page()),
    ):
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page, "run: make docs"


def test_doctor_reports_for_programs(tuneserve: Runner) -> None:
    done = tuneserve("doctor", "--json")
    report = json.loads(done.stdout)
    assert report["ready"] == (done.returncode == 0)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["llama-cpp-python"]["status"] in ("ok", "note")
    assert {"Python", "torch", "Unsloth", "demo model"} <= set(found)


@pytest.mark.parametrize(
    ("module", "name"), [("torch", "torch"), ("llama_cpp", "llama-cpp-python")]
)
def test_doctor_tells_what_is_installed_and_broken(tmp_path: Path, module: str, name: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    (tmp_path / module).mkdir()
    broken = "raise OSError('libcudart.so.13: cannot open shared object file')"
    (tmp_path / module / "__init__.py").write_text(broken)
    done = subprocess.run(
        [sys.executable, "-m", "tuneserve", "doctor", "--json"], capture_output=True, text=True,
        check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found[name]["status"] == "missing"
    assert "OSError: libcudart.so.13: cannot open shared object" in found[name]["found"]
    assert "pip install --force-reinstall" in found[name]["advice"]


def test_data_refuses_to_overwrite(tuneserve: Runner, tmp_path: Path) -> None:
    target = tmp_path / "s.jsonl"
    target.write_text("mine")
    done = tuneserve("data", "sentiment", "--output", str(target))
    assert done.returncode == 2
    assert f"error: {target}: already exists" in done.stderr
    assert target.read_text() == "mine"
