"""What is refused says what is wrong, where, and what to do; a command ends with 1 or 2."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, Runner
from tuneserve.base import resolve_base
from tuneserve.base.rope import llama3_scaling
from tuneserve.bench.job import _choices
from tuneserve.bench.measure.endpoint import ask_endpoint
from tuneserve.bench.measure.perplexity import read_corpus
from tuneserve.cli import cli, main
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.data.prompt_variants import read_prompt_variants
from tuneserve.finetune.data.records import read_records
from tuneserve.finetune.self_distillation import read_replay_prompts
from tuneserve.gguf.architectures.phi import extra_tensors
from tuneserve.llama import check_is_gguf
from tuneserve.recipe import load_recipe
from tuneserve.sentiment import obtain_archive
from tuneserve.serve.api.middleware import read_keys
from tuneserve.serve.server import bind
from tuneserve.serve.terminal_chat import Client
from tuneserve.settings import BenchSettings

EXAMPLES = '{"instruction": "a", "output": "b"}\n' * 3
COMMANDS: list[tuple[str, list[str], int, list[str]]] = [
    ("chat --raw", [], 2, ["error: --raw needs --prompt"]),
    ("convert", [], 2, ["error: say which run: --run NAME or --config RECIPE"]),
    ("bench", [], 2, ["error: say which run: --run NAME or --config RECIPE"]),
    ("train", [], 2, ["error: say which run: --run NAME or --config RECIPE"]),
    ("serve empty.gguf --lora loud.gguf", [], 2, ["--lora loud.gguf: expected NAME=PATH"]),
    ("serve folder", [], 2, ["error: folder: can't be read: Is a directory"]),
    ("serve empty.gguf --host 192.0.2.1", [], 2, ["192.0.2.1:8080: can't listen: Cannot assign"]),
    ("serve empty.gguf --api-key-file folder", [], 2, ["folder: can't be read: ", "directory"]),
    (
        "serve empty.gguf --log-prompts", [], 2,
        ["log_prompts: prompts are written to the JSON log only", "'line'", "Add --log json."],
    ),
    ("train --config folder", [], 2, ["error: folder: can't be read: ", "directory"]),
    ("preview --fields output", [], 2, ["data.fields: write each as ours=theirs, e.g. output="]),
    ("preview --wordings folder", [], 2, ["error: folder: can't be read: Is a directory"]),
    ("data general --questions folder", [], 2, ["error: folder: can't be read: ", "directory"]),
    ("import empty.gguf out", [], 2, ["empty.gguf: this GGUF has no 'general.architecture'"]),
    ("import future.gguf out", [], 2, ["future.gguf: this GGUF is truncated or damaged"]),
    (
        "data sentiment", ["PIP_NO_INDEX=1", "TUNESERVE_CACHE=cache"], 1,
        ["pip could not download it: ", "vaderSentiment", "pass it with --from FILE"],
    ),
    (
        "preview --base nobody/nothing", ["HF_HUB_OFFLINE=0", "HF_ENDPOINT=http://127.0.0.1:9"], 1,
        ["model.base = 'nobody/nothing': the hub model can't be downloaded", "the network"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("line", "variables", "code", "words"), COMMANDS)
def test_a_command_that_can_not_work_says_why(
    tuneserve: Runner, tmp_path: Path, line: str, variables: list[str], code: int, words: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    for name, version in (("empty", 3), ("future", 99)):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
    (tmp_path / "examples.jsonl").write_text(EXAMPLES)
    arguments = line.split()
    if arguments[0] == "preview":
        arguments += ["--file", "examples.jsonl", "--test-fraction", "0", "--eval-fraction", "0"]
    variables_ = dict(variable.split("=", 1) for variable in variables)
    done = tuneserve(*arguments, cwd=tmp_path, env=variables_)
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "out").exists()


def test_an_unusable_unsloth_is_told_before_the_model_is_loaded(
    tuneserve: Runner, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    broken = tmp_path / "broken" / "unsloth.py"
    broken.write_text("raise NotImplementedError('Unsloth needs an accelerator')")
    (tmp_path / "examples.jsonl").write_text(EXAMPLES)
    done = tuneserve(
        "train", "--run", "x", "--file", "examples.jsonl", "--test-fraction", "0",
        "--eval-fraction", "0", cwd=tmp_path,
        env={"PYTHONPATH": f"{broken.parent}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: Unsloth can't be used here: Unsloth needs an accelerator\n" in done.stderr
    assert "Without a GPU it takes unsloth 2026.10.8 or newer; `tuneserve doctor`" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


READERS: list[Callable[[Path], Any]] = [
    check_is_gguf, load_recipe, obtain_archive, read_keys, read_replay_prompts, read_corpus,
    read_prompt_variants,
]  # fmt: skip


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_folder_where_a_file_is_wanted(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(UsageError, match=r"can't be read: .*[Ii]s a directory") as caught:
        read(tmp_path)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize("read", [read_keys, read_corpus], ids=lambda read: read.__name__)
def test_a_device_where_a_file_is_wanted(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "endless"
    path.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="is no file but a device") as caught:
        read(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt"])
def test_a_file_of_examples_that_is_no_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"examples{suffix}"
    path.symlink_to("/proc/self/mem")  # the name of no file on a disk
    with pytest.raises(UsageError, match="is no file but a device, a pipe or a stream") as caught:
        list(read_records(path))
    assert caught.value.where == str(path)


def test_addresses_that_can_not_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="this port is in use") as caught:
            bind("127.0.0.1", port)
    assert caught.value.where == f"127.0.0.1:{port}"
    assert caught.value.hint == "Choose another: --port N (0: any free)."
    # An address of documentation (RFC 5737), which is no machine's own.
    with pytest.raises(UsageError, match="can't listen: Cannot assign requested") as caught:
        bind("192.0.2.1", 0)
    assert caught.value.where == "192.0.2.1:0"


def test_a_hub_model_without_a_network() -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(TuneserveError, match="the hub model can't be downloaded") as caught:
        resolve_base("nobody/nothing")
    assert caught.value.where == "model.base = 'nobody/nothing'"
    assert "name a local checkpoint" in caught.value.hint


@pytest.fixture
def no_models() -> Iterator[str]:
    """The address of an API that serves no model."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"object": "list", "data": []}')

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_without_a_model(no_models: str) -> None:
    with pytest.raises(TuneserveError, match="this server serves no model") as caught:
        Client(no_models, model=None, api_key=None, temperature=0.0, seed=None, max_tokens=None)
    assert caught.value.where == no_models
    settings = BenchSettings(endpoint=no_models)
    with pytest.raises(TuneserveError, match="lists no model") as caught:
        list(ask_endpoint([], settings))
    assert (caught.value.where, caught.value.hint) == (no_models, "Name one: --endpoint-model")


@pytest.mark.parametrize("needs", [{"noise_floor": True}, {"endpoint": "http://x/v1"}])
def test_a_task_that_generates_nothing_has_no_answers_to_compare(needs: dict[str, Any]) -> None:
    settings = BenchSettings.model_validate({"task": "likelihood", **needs})
    with pytest.raises(UsageError, match="'likelihood' generates no answers") as caught:
        _choices(None, settings)  # type: ignore[arg-type]
    assert caught.value.where == f"bench.{next(iter(needs))}"


def test_rope_factors_that_are_of_no_known_kind() -> None:
    import numpy as np

    assert llama3_scaling(np.linspace(1, 8, 32, dtype=np.float32), 10_000.0, 64) is None
    scaling = {"rope_type": "longrope", "long_factor": [1.0] * 3, "short_factor": [1.0] * 32}
    config = {"rope_scaling": scaling, "hidden_size": 256, "num_attention_heads": 4}
    with pytest.raises(UsageError, match="long_factor has 3 numbers, not half the RoPE size"):
        list(extra_tensors(config))


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "Make room on that disk"),
        (errno.EROFS, "Choose a place that can be written"),
        (errno.EACCES, "change its permissions"),
        (errno.EIO, ""),
    ],
)
def test_what_the_system_refuses_is_one_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, hint: str
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(number, os.strerror(number), "runs/x/run.json")

    monkeypatch.setattr(cli, "main", refuse)
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: runs/x/run.json: ")
    assert os.strerror(number).lower() in shown.lower()
    assert hint in shown
    assert "Traceback" not in shown
    with pytest.raises(OSError, match=r"run\.json"):
        main(["train", "--debug"])


def test_an_error_of_a_library_that_only_looks_like_the_systems_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**_: Any) -> None:
        raise OSError("a defect of ours")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(OSError, match="a defect of ours"):
        main(["train"])


def test_on_windows_itself_a_command_says_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--run", "x"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: does not run on Windows itself\n")
    assert "in WSL on Windows" in said
