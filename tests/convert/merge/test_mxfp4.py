"""gpt-oss's packed experts: transformers' values, and ggml's blocks of the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tuneserve.convert.merge.mxfp4 import MXFP4Tensor, mxfp4_tensors
from tuneserve.llama import ggml
from tuneserve.safetensors import checkpoint_tensors

EXPERTS, OUTPUTS, BLOCKS = 3, 10, 4


@pytest.fixture
def packed(tmp_path: Path) -> MXFP4Tensor:
    from safetensors.numpy import save_file

    random = np.random.default_rng(0)
    save_file(
        {
            "x.gate_up_proj_blocks": random.integers(
                0, 256, (EXPERTS, OUTPUTS, BLOCKS, 16), dtype=np.uint8
            ),
            "x.gate_up_proj_scales": random.integers(
                115, 135, (EXPERTS, OUTPUTS, BLOCKS), dtype=np.uint8
            ),
            "x.gate_up_proj_bias": np.zeros((EXPERTS, OUTPUTS), dtype=np.float32),
        },
        tmp_path / "model.safetensors",
    )
    found = mxfp4_tensors(checkpoint_tensors(tmp_path))
    assert list(found) == ["x.gate_up_proj"]
    return found["x.gate_up_proj"]


def test_values_are_those_of_transformers(packed: MXFP4Tensor) -> None:
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    parts = [torch.from_numpy(stored.raw()) for stored in (packed.blocks, packed.scales)]
    expected = convert_moe_packed_tensors(*parts).float().numpy()
    assert packed.shape == expected.shape
    flat = expected.reshape(-1, OUTPUTS)
    np.testing.assert_array_equal(packed.rows(), flat)
    for start, stop in ((0, 1), (5, 77), (100, 300), (383, 384)):
        np.testing.assert_array_equal(packed.rows(start, stop), flat[start:stop])


def test_ggmls_blocks_hold_the_same_values(packed: MXFP4Tensor) -> None:
    for rows in (range(0, 10), range(11, 20, 2), range(29, 30)):
        data = packed.packed_rows(rows)
        found = ggml.dequantize(data, "MXFP4", BLOCKS * 32)
        expert = rows[0] // OUTPUTS
        inputs = BLOCKS * 32
        values = packed.rows(expert * inputs, (expert + 1) * inputs).T
        np.testing.assert_array_equal(found, values[[row % OUTPUTS for row in rows]])
