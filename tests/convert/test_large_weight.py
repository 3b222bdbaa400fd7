"""A weight that float16 can't hold: BF16 has it, F16 is refused by the tensor's name."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.convert.convert_support import make_adapter, make_base
from tuneserve.convert.stage import convert
from tuneserve.errors import TuneserveError
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

TENSOR = "model.layers.1.mlp.gate_proj.weight"


def test_bf16_has_it_and_f16_names_the_tensor(
    run: RunDirectory, tokenizer_directory: Path, tmp_path: Path
) -> None:
    import torch

    base = make_base(tmp_path / "base", tokenizer_directory, dtype=torch.bfloat16)
    weights = load_file(base / "model.safetensors")
    weights[TENSOR][3, 7] = 70_000
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    make_adapter(run.adapter, base, tokenizer_directory)
    with run.stage("train") as record:
        record.result = TrainOutput(base=TrainedBase(spec="x", path=str(base), name="tiny"))
    assert all(
        check.passed for check in convert(run, ConvertSettings(quantization="BF16")).verification
    )
    for quantization in ("F16", "Q8_0"):
        with pytest.raises(
            TuneserveError, match=f"{TENSOR}, in the base already.*too large for F16"
        ):
            convert(run, ConvertSettings(quantization=quantization))

    # The base's own weight is all right, the sum is not.
    weights[TENSOR][3, 7] = 1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    adapter = load_file(run.adapter / "adapter_model.safetensors")
    for name in adapter:
        if f"{TENSOR.removesuffix('.weight')}.lora_B" in name:
            adapter[name] *= 1e9
    save_file(adapter, run.adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(TuneserveError, match=f"{TENSOR}, with the adapter's change.*too large"):
        convert(run, ConvertSettings(quantization="F16"))
