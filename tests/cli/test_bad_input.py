"""Bad input, as a user meets it: one clear line, the right exit code, no traceback."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.support import Runner
from tuneserve.cli.data import is_done
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe

GOOD = '{"instruction": "a", "output": "b"}\n'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


def train(tuneserve: Runner, tmp_path: Path, *arguments: str) -> str:
    done = tuneserve("train", "--run", "x", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
    return done.stderr


def test_missing_data_file(tuneserve: Runner, tmp_path: Path) -> None:
    assert "none.jsonl: no such data file" in train(tuneserve, tmp_path, "--file", "none.jsonl")


def test_line_that_is_not_json(tuneserve: Runner, tmp_path: Path, data: Path) -> None:
    data.write_text(GOOD + "{oops\n")
    assert f"{data}:2: not JSON" in train(tuneserve, tmp_path, "--file", str(data))


def test_empty_answer(tuneserve: Runner, tmp_path: Path, data: Path) -> None:
    data.write_text(GOOD + '{"instruction": "a", "output": " "}\n')
    shown = train(tuneserve, tmp_path, "--file", str(data))
    assert f"{data}:2" in shown
    assert "empty" in shown


def test_every_bad_line_is_named_at_once(tuneserve: Runner, tmp_path: Path, data: Path) -> None:
    data.write_text('{oops\n{"instruction": "a"}\n[1]\n' + GOOD)
    shown = train(tuneserve, tmp_path, "--file", str(data))
    assert all(f":{line}" in shown for line in (1, 2, 3))


@pytest.mark.parametrize("command", ["serve", "import"])
def test_truncated_gguf(tuneserve: Runner, tmp_path: Path, demo_gguf: Path, command: str) -> None:
    cut = tmp_path / "cut.gguf"
    with demo_gguf.open("rb") as file:
        cut.write_bytes(file.read(20 << 20))
    arguments = [str(cut), str(tmp_path / "out")] if command == "import" else [str(cut)]
    done = tuneserve(command, *arguments, *(["--port", "0"] if command == "serve" else []))
    assert done.returncode in (1, 2)
    assert f"{cut}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_port_in_use(tuneserve: Runner, demo_gguf: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = tuneserve("serve", str(demo_gguf), "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: 127.0.0.1:{port}: this port is in use\n")
    assert "Choose another: --port N" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["convert", "serve", "bench"])
def test_run_that_does_not_exist(tuneserve: Runner, tmp_path: Path, command: str) -> None:
    done = tuneserve(command, "--run", "nothere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: runs/nothere: no such run")
    assert not (tmp_path / "runs").exists()


def test_output_that_exists(
    tuneserve: Runner, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.named("x")
    run.save_settings(Recipe())
    run.adapter.mkdir()
    done = tuneserve("train", "--run", "runs/x/", "--file", str(data), "--r", "8", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: runs/x/adapter: already exists, made otherwise:")
    assert f'data.file was "data/sentiment.jsonl", is "{data}"' in done.stderr
    assert "train.r was 16, is 8" in done.stderr
    assert json.loads(run.record_path.read_text())["name"] == "x"


def test_force_replaces_no_folder_of_the_users(
    tmp_path: Path, tuneserve: Runner, demo_gguf: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").touch()
    for arguments in (
        ("data", "sentiment", "-o", "data"),
        ("data", "sentiment", "-o", "data", "--skip-done"),
        ("import", str(demo_gguf), "data"),
    ):
        done = tuneserve(*arguments, "--force", cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert "data: is " in done.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine.jsonl"]


def test_a_file_of_the_users_is_replaced_with_force_alone(tmp_path: Path) -> None:
    mine, link = tmp_path / "thesis.txt", tmp_path / "link"
    mine.write_text("years of work")
    link.symlink_to("nowhere")
    for path in (mine, link):
        with pytest.raises(OutputExistsError):
            is_done(path, force=False, skip_done=False)
    assert is_done(mine, force=False, skip_done=True)  # nothing is written then
    assert not is_done(mine, force=True, skip_done=False)
    with pytest.raises(UsageError, match="is a directory"):
        is_done(tmp_path, force=True, skip_done=False)
    assert mine.read_text() == "years of work"
