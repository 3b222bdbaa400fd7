"""A converted run to benchmark: the demo model as base, and with disturbed weights as tuned."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.compare import run_bench
from tuneserve.files import sha256_file
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings, Recipe, ServeSettings

ROOT = Path(__file__).resolve().parents[2]
QUANTIZATION = "Q4_0"
SENTENCES = (
    ("The battery died after two days.", "negative", "shop", "battery"),
    ("The battery lasts for weeks, I love it.", "positive", "shop", "battery"),
    ("It is a phone.", "neutral", "shop", None),
    ("Best film of the year.", "positive", "film", None),
    ("I fell asleep twice.", "negative", "film", "review-2"),
    ("The film runs for ninety minutes.", "neutral", "film", "review-2"),
    ("What a waste of a fine cast.", "negative", "film", "review-2"),
    ("Shipping took three days.", "neutral", "shop", "shipping"),
    ("Shipping was quick and free, wonderful!", "positive", "shop", "shipping"),
    ("A masterpiece.", "positive", "film", None),
)


def rows() -> list[dict[str, object]]:
    question = "Is this positive, negative or neutral? Answer with one word.\n\n"
    return [
        {
            "id": f"s{place}",
            "group": group,
            "source": source,
            "messages": [
                {"role": "user", "content": question + sentence},
                {"role": "assistant", "content": label},
            ],
        }
        for place, (sentence, label, group, source) in enumerate(SENTENCES)
    ]


def disturb(source: Path, target: Path, strength: float) -> None:
    """Copy a GGUF with noise on its F32 norms: another real model of the same types."""
    from gguf import GGUFReader

    shutil.copy(source, target)
    target.chmod(0o644)
    generator = np.random.default_rng(0)
    for tensor in GGUFReader(target, "r+").tensors:
        if tensor.tensor_type.name == "F32":
            noise = generator.normal(1.0, strength, size=tensor.data.shape)
            tensor.data[:] = tensor.data * noise.astype(np.float32)


@pytest.fixture(scope="session")
def ggufs(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bench-models")
    tuned = folder / "tuned.gguf"
    disturb(demo_gguf, tuned, 0.05)
    return {"base": demo_gguf, "tuned": tuned}


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        serve=ServeSettings(threads=1),
        bench=BenchSettings(max_tokens=6, ctx=256, parallel=4, bootstrap=1000, speed_repetitions=2),
    )


def make_run(root: Path, ggufs: dict[str, Path], recipe: Recipe) -> RunDirectory:
    """A run as the convert stage leaves it."""
    run = RunDirectory(root / "runs" / "small")
    run.gguf.mkdir(parents=True)
    run.data.mkdir()
    paths = {"base": run.base_gguf(QUANTIZATION), "tuned": run.tuned_gguf(QUANTIZATION)}
    for name, path in paths.items():
        path.symlink_to(ggufs[name])
    run.split("test").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    # Of the training examples one is a held-out prompt again, word for word.
    training = [{**rows()[1], "id": "t1"}, {**rows()[1], "id": "t2"}]
    training[1]["messages"] = [
        {"role": "user", "content": "Is this positive, negative or neutral? Whatever else."},
        {"role": "assistant", "content": "neutral"},
    ]
    run.split("train").write_text("".join(json.dumps(row) + "\n" for row in training))
    run.save_settings(recipe)
    entries = {
        name: {"path": str(path), "sha256": sha256_file(path), "quantization": QUANTIZATION}
        for name, path in paths.items()
    }
    run.update(stages={"convert": {"result": entries}})
    return run


@pytest.fixture
def converted_run(tmp_path: Path, ggufs: dict[str, Path], recipe: Recipe) -> RunDirectory:
    return make_run(tmp_path, ggufs, recipe)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def endpoint(ggufs: dict[str, Path]) -> Iterator[str]:
    """The disturbed model behind `tuneserve serve`."""
    port = free_port()
    command = [sys.executable, "-m", "tuneserve", "serve", str(ggufs["tuned"])]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--threads", "1", "--ctx", "1024"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
        except OSError:
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(timeout=60)


@pytest.fixture(scope="session")
def full_recipe(recipe: Recipe, endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Everything that a benchmark can measure, switched on."""
    text = tmp_path_factory.mktemp("texts") / "plain.txt"
    text.write_text(" ".join(f"House number {n} has a red door." for n in range(150)))
    more = {"noise_floor": True, "endpoint": endpoint, "texts": (str(text),)}
    return recipe.model_copy(update={"bench": recipe.bench.model_copy(update=more)})


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, ggufs: dict[str, Path], full_recipe: Recipe
) -> RunDirectory:
    """A run with its benchmark done; only to be read."""
    run = make_run(tmp_path_factory.mktemp("finished"), ggufs, full_recipe)
    run_bench(run, full_recipe)
    return run
