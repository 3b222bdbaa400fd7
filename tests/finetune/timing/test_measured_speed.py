"""What earlier runs tell of this machine's speed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tuneserve.finetune.training.measured_speed import machine_name, measured_speed
from tuneserve.model_shape import ModelShape
from tuneserve.settings import Recipe, TrainSettings

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip
SHAPE = ModelShape.of(CONFIG)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "runs"


def write_run(runs: Path, name: str, *, done: int = 200, **changed: Any) -> None:
    held = {"loss": 1.0, "perplexity": 2.7, "tokens": 5, "examples": 1}
    result = {
        "base": {"spec": "x", "path": str(runs.parent / "base"), "name": "x"},
        "examples": {"train": 100},
        "data": {"files": ["d"], "sha256": "", "shapes": {}, "skipped": 0, "duplicates_removed": 0,
                 "straddling_removed": 0, "near_duplicates_removed": 0, "groups": {},
                 "general": None},
        "tokens": {"train": {"examples": 100, "tokens": 8000, "trained_tokens": 200}},
        "epoch": {"examples": 100, "general": 0},
        "device": "cpu", "machine": "this one", "precision": "fp32", "trainable_parameters": 1,
        "steps": {"planned": done, "done": done, "best": done, "resumed_from": None},
        "losses": {"train": [], "eval": [], "general": []}, "held_out": {"eval": held},
        "training_seconds": 10.0, "evaluation_seconds": 0.0,
        # The first with a minute of compiling.
        "tokens_per_second": 200.0, "steady_tokens_per_second": 800.0,
        "peak_memory": {"resident_bytes": 1},
        "memory_plan": {"load_in_4bit": False, "gradient_checkpointing": "false",
                        "kept_layers": 0, "offload_embeddings": False, "batch_size": 8,
                        "gradient_accumulation": 1, "chosen": "", "predicted_bytes": 1,
                        "measured_bytes": 1},
        **changed,
    }  # fmt: skip
    record = {
        "schema": 1,
        "settings": Recipe().model_dump(mode="json"),
        "stages": {"train": {"finished": "", "seconds": 1.0, "result": result}},
    }
    (runs / name).mkdir(parents=True)
    (runs / name / "run.json").write_text(json.dumps(record))


def found(
    runs: Path, *, length: float = 80, tokens: int = 100_000, **settings: Any
) -> tuple[str, float] | None:
    speed = measured_speed(
        SHAPE, TrainSettings(**settings), device="cpu", machine="this one", length=length,
        tokens=tokens, runs=runs,
    )  # fmt: skip
    return (speed.run, speed.tokens_per_second) if speed else None


def test_the_latest_run_of_such_a_training_is_taken(runs: Path) -> None:
    assert found(runs) is None
    for age, (name, rate) in enumerate((("new", 800.0), ("old", 700.0))):
        write_run(runs, name, steady_tokens_per_second=rate)
        os.utime(runs / name / "run.json", (1e9 - age, 1e9 - age))
    assert found(runs) == ("new", 800.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"machine": "another"},
        {"machine": ""},
        {"device": "cuda"},
        {"done": 5},
        {"steady_tokens_per_second": 0.0},
    ],
)
def test_other_machines_and_short_runs_tell_nothing(runs: Path, changed: dict[str, Any]) -> None:
    write_run(runs, "other", **changed)
    assert found(runs) is None


def test_another_training_tells_nothing(runs: Path) -> None:
    write_run(runs, "mine")
    assert found(runs) == ("mine", 800.0)
    assert found(runs, r=64) is None
    assert found(runs, gradient_checkpointing="true") is None
    assert found(runs, epochs=7.0, learning_rate=1e-3) == ("mine", 800.0)
    assert found(runs, length=300) is None
    assert found(runs, tokens=10_000) is None  # not worth compiling, as that run was
    (runs.parent / "base" / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 128}))
    assert found(runs) is None


def test_a_damaged_run_does_not_stop_a_plan(runs: Path) -> None:
    write_run(runs, "good")
    write_run(runs, "bad")
    (runs / "bad" / "run.json").write_text("{")
    assert found(runs) == ("good", 800.0)


def test_a_cpu_is_named_with_what_slows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    usual = machine_name(None, "cpu")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert machine_name(None, "cpu") == f"{usual}, ATEN_CPU_CAPABILITY=avx2"
