"""Adapters of strangers: refused with a reason, whatever their configuration says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneserve.convert.merge.adapter import Adapter, scale_of
from tuneserve.convert.merge.adapter_config import read_adapter_config
from tuneserve.errors import UsageError
from tuneserve.safetensors import SafetensorsWriter, TensorSpec

_GOOD: dict[str, Any] = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
    "rank_pattern": {}, "alpha_pattern": {r".*\.layers\.(0|1)\..*q_proj": 8},
}  # fmt: skip
_ENDLESS = "(([a-z0-9_.]+)+)+X"


def _adapter(folder: Path, **changed: Any) -> Path:
    config = {**_GOOD, **changed}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    names = {"A": (2, 4), "B": (4, 2)}
    specs = [
        TensorSpec(f"base_model.model.model.layers.0.q_proj.lora_{side}.weight", "F32", shape)
        for side, shape in names.items()
    ]
    with SafetensorsWriter(folder / "adapter_model.safetensors", specs) as writer:
        for spec in specs:
            writer.write(spec.name, [np.ones(spec.shape, "<f4").tobytes()])
    return folder


def test_a_good_one_is_read(tmp_path: Path) -> None:
    adapter = Adapter(_adapter(tmp_path))
    assert adapter.changes["model.layers.0.q_proj.weight"].scale == 4.0
    assert scale_of(adapter.config, "model.layers.2.q_proj", rank=2) == 2.0


@pytest.mark.parametrize(
    "changed",
    [
        {"peft_type": "LOHA"}, {"peft_type": None}, {"peft_type": ["LORA"]},
        {"r": 0}, {"r": -1}, {"r": 2.5}, {"r": True}, {"r": None}, {"r": 10**30}, {"r": "2"},
        {"lora_alpha": None}, {"lora_alpha": float("nan")}, {"lora_alpha": 0},
        {"lora_alpha": 10**400}, {"lora_alpha": [1]},
        {"rank_pattern": [1]}, {"rank_pattern": {"q": "x"}}, {"rank_pattern": {"q": 0}},
        {"rank_pattern": {_ENDLESS: 2}}, {"alpha_pattern": {_ENDLESS: 2}},
        {"rank_pattern": {"[": 2}}, {"rank_pattern": {"*": 2}}, {"rank_pattern": {"(?P<": 2}},
        {"alpha_pattern": {"q": float("inf")}},
        {"target_modules": _ENDLESS}, {"target_modules": 3}, {"target_modules": [1]},
        {"exclude_modules": "(a|a)*b"}, {"layers_pattern": ["(a*)*"]},
        {"layers_to_transform": "all"}, {"layers_to_transform": [-1]},
        {"trainable_token_indices": "x"}, {"trainable_token_indices": {"a": [2**70]}},
        {"use_rslora": "yes"}, {"use_dora": 1}, {"init_lora_weights": {}},
        {"target_parameters": {"a": 1}}, {"modules_to_save": 1},
        {"deep": json.loads("[" * 40 + "]" * 40)},
    ],
    ids=str,
)  # fmt: skip
def test_others_are_refused_at_once(tmp_path: Path, changed: dict[str, Any]) -> None:
    began = time.process_time()
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        Adapter(_adapter(tmp_path, **changed))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", "{", "{'a': 1}", "[" * 100_000, '{"r": 1, "r": 2}', "\ud800",
     "x" * (2 << 20)],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        read_adapter_config(tmp_path)


def test_the_slowest_patterns_that_are_taken_end(tmp_path: Path) -> None:
    slow = {f".*a{number}.*b.*c.*X": 2 for number in range(15)}
    config = read_adapter_config(_adapter(tmp_path, rank_pattern=slow))
    began = time.process_time()
    for layer in range(10):
        assert scale_of(config, f"model.layers.{layer}.abcabcabc.self_attn.q_proj", rank=2)
    assert time.process_time() - began < 2
    with pytest.raises(UsageError, match="patterns of modules"):
        read_adapter_config(_adapter(tmp_path, rank_pattern={**slow, ".*X.*": 2}))
