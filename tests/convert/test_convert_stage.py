"""The stage as a whole: result, refusals, and what a failure or a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from convert_support import Trained

from convert.gate import GateError
from convert.stage import convert
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.files import sha256_file
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

SETTINGS = ConvertSettings(quantization="Q8_0")


def gguf_files(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.gguf.glob("*")) if run.gguf.exists() else []


def test_makes_verified_files_and_remembers_how(run: RunDirectory) -> None:
    result = convert(run, SETTINGS)
    assert result == run.require_stage("convert")
    assert {"small-Q8_0.gguf", "base-Q8_0.gguf"} <= set(gguf_files(run))
    assert not any("F16" in name or "partial" in name for name in gguf_files(run))
    for entry in (result["tuned"], result["base"]):
        path = Path(entry["path"])
        assert entry["sha256"] == sha256_file(path)
        assert entry["size_bytes"] == path.stat().st_size
        with LlamaModel(path) as model:
            assert model.n_layer == 3
    assert all(check["passed"] for check in result["verification"])
    assert sum(result["tensor_types"].values()) == 2 + 9 * 3

    stamp = run.tuned_gguf("Q8_0").stat().st_mtime_ns
    with pytest.raises(OutputExistsError):
        convert(run, SETTINGS)
    assert convert(run, SETTINGS, skip_done=True) == result
    with pytest.raises(OutputExistsError):
        convert(run, SETTINGS.model_copy(update={"max_kld": 1e-2}), skip_done=True)
    (run.adapter / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(OutputExistsError):
        convert(run, SETTINGS, skip_done=True)
    assert run.tuned_gguf("Q8_0").stat().st_mtime_ns == stamp


def test_a_shut_gate_leaves_nothing(run: RunDirectory) -> None:
    with pytest.raises(GateError, match="failed verification") as caught:
        convert(run, SETTINGS.model_copy(update={"max_kld": 1e-15}))
    assert [line.split(":")[0] for line in caught.value.problems] == ["F16 = merged"]
    assert gguf_files(run) == []
    with pytest.raises(UsageError, match="no finished 'convert' stage"):
        run.require_stage("convert")


def test_without_training_there_is_nothing_to_convert(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "x")
    run.update()
    with pytest.raises(UsageError, match="no finished 'train' stage"):
        convert(run, SETTINGS)


def test_killed_while_writing_leaves_no_half_file(run: RunDirectory, trained: Trained) -> None:
    code = (
        "from pathlib import Path\n"
        "from convert.stage import convert\n"
        "from tuneserve.run import RunDirectory\n"
        "from tuneserve.settings import ConvertSettings\n"
        f"convert(RunDirectory(Path({str(run.root)!r})), ConvertSettings(quantization='Q8_0'))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=os.environ
    )
    deadline = time.monotonic() + 120
    while not list(run.root.glob("gguf/*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [name for name in gguf_files(run) if not name.endswith(".partial")] == []
    assert "convert" not in json.loads(run.record_path.read_text())["stages"]
    convert(run, SETTINGS)
    assert not any(name.endswith(".partial") for name in gguf_files(run))
