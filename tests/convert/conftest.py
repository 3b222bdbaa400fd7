"""Small real models: random Llama checkpoints with SmolLM2's tokenizer, and PEFT adapters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.convert.convert_support import Trained, make_adapter, make_base, write_held_out
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.run import RunDirectory


@pytest.fixture(scope="session")
def tokenizer_directory(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(GGUFFile(demo_gguf), directory)
    return directory


@pytest.fixture(scope="session")
def trained(tokenizer_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    base = make_base(root / "base", tokenizer_directory)
    adapter = make_adapter(root / "adapter", base, tokenizer_directory)
    return Trained(base, adapter, write_held_out(root / "test.jsonl"))


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> RunDirectory:
    """A run directory whose training is done."""
    run = RunDirectory(tmp_path / "runs" / "small")
    run.root.mkdir(parents=True)
    shutil.copytree(trained.adapter, run.adapter)
    write_held_out(run.split("test"))
    with run.stage("train") as record:
        base = TrainedBase(spec=str(trained.base), path=str(trained.base), name="tiny")
        record.result = TrainOutput(base=base)
    return run
