"""bitsandbytes 4-bit bases: read as bitsandbytes reads them, and merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.convert.convert_support import KINDS_OF_FOUR_BIT as KINDS
from tests.convert.convert_support import Trained, quantized
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.four_bit import FourBitTensor, readable_tensors, rounded
from tuneserve.convert.verify.reference import transformers_config
from tuneserve.convert.verify.streamed_model import StreamedModel, Variant
from tuneserve.convert.verify.weights import TrainerWeights
from tuneserve.errors import UsageError
from tuneserve.safetensors import checkpoint_tensors


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_bitsandbytes_reads(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path, kind: str
) -> None:
    from bitsandbytes.functional import dequantize_4bit

    model = quantized(trained.base, tmp_path / "base", tokenizer_directory, KINDS[kind])
    tensors = readable_tensors(checkpoint_tensors(tmp_path / "base"))
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(tensors)
    packed = 0
    for name, parameter in parameters.items():
        state = getattr(parameter, "quant_state", None)
        values = parameter if state is None else dequantize_4bit(parameter.data, state)
        expected = values.detach().float().numpy()
        tensor = tensors[name]
        packed += isinstance(tensor, FourBitTensor)
        assert tensor.shape == expected.shape, name
        np.testing.assert_array_equal(tensor.rows(), expected, err_msg=name)
        np.testing.assert_array_equal(tensor.rows(5, 23), expected[5:23], err_msg=name)
    assert packed == {"skipping": 3 * 7 - 3 - 3}.get(kind, 21)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_ties_are_rounded_to_the_even_neighbour(dtype: str) -> None:
    """Numbers exactly between two of the type: torch's cast is what the trainer saw."""
    import torch

    fraction_bits, kind = {"BF16": (7, torch.bfloat16), "F16": (10, torch.float16)}[dtype]
    steps = np.arange(64, dtype=np.float32) + np.float32(0.5)
    ties = np.float32(1.0) + steps * np.float32(2.0**-fraction_bits)
    values = np.concatenate([ties, -ties, 8 * ties])
    given = values.copy()
    expected = torch.tensor(given).to(kind).float().numpy()
    np.testing.assert_array_equal(rounded(values, dtype), expected)
    assert (expected != given).all()
    # Half of the ties go down: rounding half up would give another number there.
    assert (np.abs(expected) < np.abs(given)).mean() == 0.5
    np.testing.assert_array_equal(values, given, err_msg="the argument is not changed")


def test_merges_into_a_four_bit_base(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path
) -> None:
    """The adapter on what bitsandbytes dequantizes, against our merge."""
    quantized(trained.base, tmp_path / "base", tokenizer_directory, KINDS["nf4-nested"])
    merged = MergedCheckpoint(tmp_path / "base", Adapter(trained.adapter))
    assert merged.kind == "bitsandbytes 4-bit, dequantized"
    model = GGUFModel(merged, trained.adapter, name="x")
    trainer = TrainerWeights(tmp_path / "base", tied=merged.tied)
    streamed = StreamedModel(
        transformers_config(model),
        [Variant(trainer, adapted=True), Variant(merged)],
        adapter=trained.adapter, threads=2,
    )  # fmt: skip
    adapted, found = streamed.logits([[5, 17, 300, 4, 99]])
    np.testing.assert_allclose(found[0], adapted[0], atol=1e-4, rtol=1e-4)


def test_other_quantizations_are_refused(trained: Trained, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    save_file(
        {"model.layers.0.self_attn.q_proj.weight": np.ones((4, 4), dtype=np.int8)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(UsageError, match="quantized in a way") as caught:
        MergedCheckpoint(tmp_path)
    assert caught.value.problems == ["model.layers.0.self_attn.q_proj.weight: I8"]
