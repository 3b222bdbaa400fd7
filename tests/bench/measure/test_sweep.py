"""The quantization ladder of a small real checkpoint with its adapter."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.convert.convert_support import Trained, make_adapter, make_base, write_held_out
from tests.support import ROOT, ModulePaths
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.bench.compare.report_file import as_json
from tuneserve.bench.stage import run_bench
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.result import ConvertOutput, GGUFRecord
from tuneserve.files import sha256_file
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings, Recipe, ServeSettings

pytestmark = pytest.mark.slow


def write_f16(model: GGUFModel, path: Path) -> GGUFRecord:
    path.parent.mkdir(exist_ok=True)
    write_gguf(path, model.metadata("F16"), model.sources, model.choices("F16"), threads=1)
    return GGUFRecord(
        path=str(path), size_bytes=path.stat().st_size, sha256=sha256_file(path), quantization="F16"
    )


@pytest.fixture(scope="module")
def run(demo_gguf: Path, module_paths: ModulePaths) -> RunDirectory:
    root = module_paths.mktemp("ladder")
    tokenizer = root / "tokenizer"
    tokenizer.mkdir()
    write_tokenizer(GGUFFile(demo_gguf), tokenizer)
    base = make_base(root / "base", tokenizer, hidden_size=128)
    trained = Trained(base, make_adapter(root / "adapter", base, tokenizer), root / "none")
    run = RunDirectory(root / "runs" / "small")
    run.root.mkdir(parents=True)
    shutil.copytree(trained.adapter, run.adapter)
    write_held_out(run.split("test"), 12)
    write_held_out(run.split("train"), 40)
    with run.stage("train") as training:
        training.result = TrainOutput(base=TrainedBase(spec="tiny", path=str(base), name="tiny"))
    with run.stage("convert") as conversion:
        conversion.result = ConvertOutput(
            base=write_f16(trained.base_model(), run.base_gguf("F16")),
            tuned=write_f16(trained.model(), run.tuned_gguf("F16")),
        )
    return run


BENCH = BenchSettings(
    max_tokens=4, ctx=128, parallel=4, bootstrap=1000, speed_repetitions=2, general=0,
    clients=(), ladder=True,
)  # fmt: skip
RECIPE = Recipe(serve=ServeSettings(threads=1), bench=BENCH)


def test_a_killed_ladder_goes_on_to_the_same_figures(run: RunDirectory, tmp_path: Path) -> None:
    """Killed amid the making of its files, then amid its points."""
    killed = RunDirectory(tmp_path / "runs" / run.name)
    shutil.copytree(run.root, killed.root, ignore=shutil.ignore_patterns("bench*"))
    killed.save_settings(RECIPE)
    files, journal = killed.root / "bench-ladder", killed.root / "bench-journal.jsonl"

    def measured() -> int:
        return journal.read_bytes().count(b'"fidelity"') if journal.exists() else 0

    def made() -> int:
        return len(list(files.glob("*.gguf")))

    first = _kill_when(killed, lambda: made() >= 2)
    assert "going on with" not in first
    second = _kill_when(killed, lambda: measured() >= 3)
    assert "going on with" in second
    assert "write F16.gguf" not in second
    before = measured()
    report = as_json(run_bench(killed, RECIPE))
    assert measured() == 8 > before
    assert not files.exists()
    peaceful = as_json(run_bench(run, RECIPE, rescore=run.bench.exists()))
    assert report["ladder"] == peaceful["ladder"]


def _kill_when(run: RunDirectory, reached: Callable[[], bool]) -> str:
    """Start the benchmark, kill it once that is reached; returns what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tuneserve", "bench", "--run", run.name],
        cwd=run.root.parent.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    return process.communicate()[1].decode()


def test_every_rung_is_measured(run: RunDirectory) -> None:
    report = as_json(run_bench(run, RECIPE, rescore=run.bench.exists()))
    ladder = report["ladder"]
    names = [(rung["name"], rung["cache"]) for rung in ladder]
    steps = ("F16", "Q8_0", "Q4_K_M", "Q4_K_M + imatrix")
    assert names == [(step, cache) for step in steps for cache in ("f16", "q8_0")]
    top = ladder[0]
    assert (top["kld"], top["same_top"], top["difference"]) == (None, None, None)
    f16, q8_0, q4, q4_imatrix = ladder[::2]
    assert f16["size_bytes"] > q8_0["size_bytes"] > q4["size_bytes"]
    assert 16 > q8_0["bits_per_weight"] > q4["bits_per_weight"] > 4
    # Rounding costs: the coarser the more, whichever the cache.
    assert 0 < q8_0["kld"]["value"] < q4["kld"]["value"]
    assert 0 < ladder[1]["kld"]["value"] < q4["kld"]["value"]
    assert q4_imatrix["kld"]["value"] != q4["kld"]["value"]
    assert all(rung["perplexity"]["value"] > 1 for rung in ladder)
    # The top rung is the tuned model itself: F16 GGUFs were compared.
    assert top["accuracy"]["value"] == report["accuracy"]["tuned"]["value"]
    assert [path.name for path in run.root.glob("bench-*")] == ["bench-journal.jsonl"]
    page = (run.bench / "report.html").read_text()
    assert "Quantization ladder" in page
    assert json.loads((run.bench / "report.json").read_text())["ladder"] == ladder
