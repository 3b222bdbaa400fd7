"""How several processes come to the same plan, and what happens when memory runs out after all."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuneserve.errors import TuneserveError
from tuneserve.finetune.memory.budget import plan_budget
from tuneserve.finetune.memory.schedule import Schedule
from tuneserve.finetune.runtime.libraries import Runtime, limit_memory
from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.training import loop as steps
from tuneserve.finetune.training.checkpoints import remember_strategy
from tuneserve.finetune.training.stage import _plan_as_remembered
from tuneserve.memory import GIB, MainMemory, main_memory
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe, TrainSettings

LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
}  # fmt: skip
EXAMPLES = [Encoded([1] * 2048, [1] * 2048, 2048, 0)] * 8


class TwoCards:
    """torch on a machine whose first GPU has 79 GiB free, its second one 11."""

    class OutOfMemoryError(RuntimeError):
        pass

    def __init__(self) -> None:
        self.cuda = self
        self.limits: list[tuple[float, int]] = []

    def mem_get_info(self, card: int) -> tuple[int, int]:
        return (79 * GIB, 11 * GIB)[card], 80 * GIB

    def get_device_properties(self, card: int) -> Any:
        return SimpleNamespace(total_memory=(80 * GIB, 40 * GIB)[card])

    def set_per_process_memory_fraction(self, fraction: float, card: int) -> None:
        self.limits.append((fraction, card))

    def empty_cache(self) -> None: ...

    def reset_peak_memory_stats(self) -> None: ...


@pytest.fixture
def job(tmp_path: Path) -> Any:
    """A training of the Llama-8B shape that is not planned yet."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return SimpleNamespace(
        recipe=Recipe(train=TrainSettings(batch_size=2, gradient_accumulation=4)),
        run=RunDirectory(tmp_path / "run"),
        base=SimpleNamespace(path=tmp_path),
        runtime=Runtime(None, TwoCards(), "cuda", "bf16"),
        training_set=SimpleNamespace(encoded=EXAMPLES),
        schedule=Schedule(9, 0, 0),
        sharing=None,
        budget=None,
    )


def planned(job: Any) -> Any:
    return plan_budget(
        job.recipe, job.runtime, job.base.path, job.training_set.encoded, Schedule(9, 0, 0)
    )


def test_a_process_plans_by_its_own_gpu_but_does_as_the_first_one_planned(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = planned(job)
    remember_strategy(job.run.checkpoints, first.decisions())
    monkeypatch.setenv("LOCAL_RANK", "1")
    job.budget = planned(job)
    assert job.budget.available < first.available
    assert job.budget.decisions() != first.decisions()
    _plan_as_remembered(job)
    assert job.budget.decisions() == first.decisions()


def test_memory_is_limited_on_the_gpu_of_the_process(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    limit_memory(job.runtime, 10.0)
    assert job.runtime.torch.limits == [(0.25, 1)]


@pytest.mark.parametrize(("processes", "attempts"), [("1", 2), ("2", 1)])
def test_only_a_process_alone_starts_again_when_memory_runs_out(
    job: Any, monkeypatch: pytest.MonkeyPatch, processes: str, attempts: int
) -> None:
    tried = []

    def attempt(job: Any, resume: Path | None) -> Any:
        tried.append(job.budget.predicted)
        raise TwoCards.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setattr(steps, "_attempt", attempt)
    job.budget = planned(job)
    with pytest.raises(TuneserveError, match="memory ran out"):
        steps.run_training(job, None)
    assert len(tried) == attempts
    assert tried == sorted(tried, reverse=True)


def test_a_model_without_sizes_is_trained_without_a_plan(job: Any) -> None:
    config = {key: value for key, value in LLAMA_8B.items() if key != "intermediate_size"}
    (job.base.path / "config.json").write_text(json.dumps(config))
    budget = planned(job)
    assert budget.predicted is None
    assert "can't be planned" in budget.describe()
    full = replace(budget, predicted=1 << 30, available=-(1 << 29))
    assert "1.0 GiB planned, and nothing is free" in full.describe()


def test_a_container_trains_with_its_own_memory(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 GiB of a machine with 64: planned were once 80 % of the machine's."""
    root = tmp_path / "root"
    (root / "proc/self").mkdir(parents=True)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: {60 << 20} kB\n")
    (root / "proc/self/cgroup").write_text("0::/\n")
    (root / "sys/fs/cgroup/memory.max").write_text(str(8 * GIB))
    (root / "sys/fs/cgroup/memory.current").write_text(str(GIB))
    monkeypatch.setattr("tuneserve.finetune.memory.budget.main_memory", lambda: main_memory(root))
    job.runtime = Runtime(None, None, "cpu", "bf16")
    assert planned(job).available == int(0.8 * 7 * GIB)


@pytest.mark.parametrize(
    ("gib", "checkpointing", "compile", "compiled"),
    [
        (900, "auto", "auto", True),
        (20, "auto", "auto", False),
        (20, "auto", "true", True),
        (900, "true", "auto", False),
        (900, "auto", "false", False),
    ],
)
def test_whether_layers_are_compiled_is_decided_with_the_memory(
    job: Any,
    monkeypatch: pytest.MonkeyPatch,
    gib: int,
    checkpointing: str,
    compile: str,
    compiled: bool,
) -> None:
    """Worth it from 60,000 tokens on, and only where activations are kept."""
    memory = MainMemory(1000 * GIB, 1000 * GIB, gib * GIB)
    monkeypatch.setattr("tuneserve.finetune.memory.budget.main_memory", lambda: memory)
    monkeypatch.setenv("CXX", sys.executable)  # any program will do: it is only looked for
    job.runtime = Runtime(None, None, "cpu", "bf16")
    train = {"batch_size": 8, "gradient_checkpointing": checkpointing, "compile": compile}
    job.recipe = Recipe(train=TrainSettings.model_validate(train))
    job.budget = planned(job)
    assert job.budget.compiled is compiled
    kept = job.budget.settings.gradient_checkpointing == "false"
    assert kept is (gib == 900 and checkpointing == "auto")


def test_the_compiler_is_looked_for_once(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was planned is what is loaded, even if the compiler is gone by then."""
    wanted: list[bool] = []
    monkeypatch.setattr(steps, "compile_layers", wanted.append)
    monkeypatch.setattr(steps, "load_base", lambda *_, **__: (None, None))
    monkeypatch.setattr(steps, "add_adapter", lambda *_: None)
    monkeypatch.setenv("CXX", sys.executable)
    job.runtime = Runtime(None, None, "cpu", "bf16")
    job.recipe = Recipe(train=TrainSettings(compile="true"))
    job.budget = planned(job)
    monkeypatch.setenv("CXX", "no-such-compiler")
    steps._load(job)
    assert wanted == [True]
