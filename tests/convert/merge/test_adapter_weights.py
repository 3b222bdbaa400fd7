"""Weights of an adapter that fit nothing are one error, and nothing of them is left out in
silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.memory import MainMemory
from tuneserve.safetensors import SafetensorsWriter, TensorSpec

LAYER = "model.layers.0.self_attn.q_proj"
PLAIN: dict[str, tuple[int, ...]] = {
    f"{LAYER}.lora_A.weight": (2, 4), f"{LAYER}.lora_B.weight": (4, 2),
}  # fmt: skip
MAGNITUDE = f"{LAYER}.lora_magnitude_vector.weight"
TOKENS = "token_adapter.trainable_tokens_delta"


def write(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    specs = [TensorSpec(name, "F32", shape) for name, shape in shapes.items()]
    with SafetensorsWriter(path, specs) as writer:
        for spec in specs:
            writer.write(spec.name, [np.ones(spec.shape, "<f4").tobytes()])


def merged(folder: Path, shapes: dict[str, tuple[int, ...]]) -> MergedCheckpoint:
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir()
    adapter.mkdir()
    model: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (base / "config.json").write_text(json.dumps(model))
    write(
        base / "model.safetensors", {f"{LAYER}.weight": (4, 4), "model.embed_tokens.weight": (6, 4)}
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "trainable_token_indices": [1, 3]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    write(adapter / "adapter_model.safetensors", shapes)
    return MergedCheckpoint(base, Adapter(adapter))


def test_those_that_fit_are_merged(tmp_path: Path) -> None:
    found = merged(tmp_path, {**PLAIN, MAGNITUDE: (4,), f"model.embed_tokens.{TOKENS}": (2, 4)})
    assert found.rows(f"{LAYER}.weight").shape == (4, 4)
    assert found.is_changed("model.embed_tokens.weight")


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({**PLAIN, f"{LAYER}.lora_A.weight": ()}, "lora_A.weight: has 0 dimensions"),
        ({**PLAIN, f"{LAYER}.lora_B.weight": (8,)}, "lora_B.weight: has 1 dimensions"),
        ({**PLAIN, f"{LAYER}.lora_A.weight": (2, 2, 2)}, "lora_A.weight: has 3 dimensions"),
        ({**PLAIN, MAGNITUDE: (1,)}, "1 magnitudes for 4 rows"),
        ({**PLAIN, "model.layers.1.x.lora_magnitude_vector": (4,)}, "4 magnitudes for 0 rows"),
        ({f"model.embed_tokens.{TOKENS}": ()}, "delta: has 0 dimensions"),
        ({f"model.embed_tokens.{TOKENS}": (2, 3)}, r"rows have \[4\] columns, .* \[3\]"),
        ({f"model.other.{TOKENS}": (2, 4)}, "model.other.weight: the base has no such table"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_others_are_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        merged(tmp_path, shapes)


def test_more_than_fits_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = MainMemory(100, 100, 10)
    monkeypatch.setattr("tuneserve.convert.merge.adapter.main_memory", lambda: little)
    with pytest.raises(TuneserveError, match="this adapter takes 64 B of memory, 10 B are free"):
        merged(tmp_path, PLAIN)
