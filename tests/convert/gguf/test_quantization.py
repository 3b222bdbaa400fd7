"""One pass gives, byte for byte, the file that llama.cpp quantizes from the F16 GGUF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.convert.convert_support import Trained, make_adapter, make_base, write_held_out
from tuneserve.convert.gguf.model import ComputedTensor, GGUFModel
from tuneserve.convert.gguf.quantization import (
    BLOCK,
    MIXTURES,
    NEEDS_IMATRIX,
    fitting_type,
    loader_order,
)
from tuneserve.convert.gguf.writer import encoded_rows, write_gguf
from tuneserve.errors import TuneserveError
from tuneserve.llama import backend


@pytest.fixture(scope="module", params=["narrow", "wide"])
def shaped(
    request: pytest.FixtureRequest,
    tokenizer_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """Rows of 96 (no multiple of 256: fallbacks) and of 256; 9 layers, so that all rules act."""
    width = {"narrow": 96, "wide": 256}[request.param]
    root = tmp_path_factory.mktemp(request.param)
    base = make_base(
        root / "base", tokenizer_directory, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=9, num_attention_heads=8, num_key_value_heads=2, head_dim=32,
        tie_word_embeddings=request.param == "narrow",
    )  # fmt: skip
    adapter = make_adapter(root / "adapter", base, tokenizer_directory)
    return Trained(base, adapter, write_held_out(root / "test.jsonl"))


# BF16 is made from the checkpoint's own values, llama_model_quantize's from the F16 file's. What
# needs an importance matrix is in tests/convert/imatrix.
@pytest.mark.parametrize(
    "quantization", [name for name in MIXTURES if name not in ("BF16", *NEEDS_IMATRIX)]
)
def test_equals_llama_model_quantize(shaped: Trained, tmp_path: Path, quantization: str) -> None:
    check_quantized_alike(shaped.model(), quantization, tmp_path)


def check_quantized_alike(model: GGUFModel, quantization: str, tmp_path: Path) -> None:
    """The file equals, byte for byte, what llama.cpp's quantizer makes of the F16 file."""
    f16, ours, theirs = (tmp_path / name for name in ("f16", "ours", "theirs"))
    write_gguf(f16, model.metadata("F16"), model.sources, model.choices("F16"), threads=2)
    params = backend().llama_model_quantize_default_params()
    params.ftype = MIXTURES[quantization].file_type
    assert backend().llama_model_quantize(bytes(f16), bytes(theirs), params) == 0
    write_gguf(
        ours, model.metadata(quantization), model.sources, model.choices(quantization), threads=2
    )
    assert ours.read_bytes() == theirs.read_bytes()


@given(
    wanted=st.sampled_from(sorted(BLOCK)),
    columns=st.integers(1, 4096),
)
def test_the_fitting_type_fits(wanted: str, columns: int) -> None:
    assert columns % BLOCK[fitting_type(wanted, columns)] == 0


def test_order_is_the_loaders() -> None:
    names = ["output.weight", "blk.10.a", "blk.2.b", "blk.2.a", "token_embd.weight"]
    assert sorted(names, key=loader_order) == [
        "output.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.a"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_are_refused(value: float, kind: str) -> None:
    rows = np.ones((2, 256), dtype=np.float32)
    rows[1, 7] = value
    with pytest.raises(TuneserveError, match="not finite"):
        encoded_rows(ComputedTensor(rows), kind, 0, 2)
