"""One pass gives, byte for byte, the file that llama.cpp quantizes from the F16 GGUF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.convert.convert_support import (
    Trained,
    llama_quantize,
    make_adapter,
    make_base,
    write_held_out,
)
from tests.support import ModulePaths
from tuneserve.convert.gguf.model import ComputedTensor, GGUFModel
from tuneserve.convert.gguf.quantization import (
    BLOCK,
    MIXTURES,
    NEEDS_IMATRIX,
    fitting_type,
    loader_order,
)
from tuneserve.convert.gguf.writer import encoded_rows, write_gguf
from tuneserve.convert.imatrix import Importance, ImportanceMatrix
from tuneserve.errors import TuneserveError


@pytest.fixture(scope="module", params=["narrow", "wide", "deep"])
def shaped(
    request: pytest.FixtureRequest,
    tokenizer_directory: Path,
    module_paths: ModulePaths,
) -> Trained:
    """Rows of 96 (no multiple of 256: fallbacks) and of 256; layers enough that all rules act, and
    four query heads for a key-value head or two."""
    width, layers, heads, wide = {
        "narrow": (96, 9, 2, 192), "wide": (256, 9, 2, 512), "deep": (256, 17, 4, 256)
    }[request.param]  # fmt: skip
    root = module_paths.mktemp(request.param)
    base = make_base(
        root / "base", tokenizer_directory, hidden_size=width, intermediate_size=wide,
        num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=heads, head_dim=32,
        tie_word_embeddings=request.param == "narrow",
    )  # fmt: skip
    adapter = make_adapter(root / "adapter", base, tokenizer_directory)
    return Trained(base, adapter, write_held_out(root / "test.jsonl"))


def small_model(shaped: Trained) -> GGUFModel:
    """Its matrices have their first rows alone, since some types take long."""
    model = shaped.model()
    for name, source in model.sources.items():
        if len(source.shape) == 2:
            rows = source.rows(0, min(32, source.shape[0]))
            model.sources[name] = ComputedTensor(rows)
    return model


# BF16 is made from the checkpoint's own values, llama_model_quantize's from the F16 file's.
@pytest.mark.parametrize("quantization", [name for name in MIXTURES if name != "BF16"])
def test_equals_llama_model_quantize(shaped: Trained, tmp_path: Path, quantization: str) -> None:
    check_quantized_alike(small_model(shaped), quantization, tmp_path)


def check_quantized_alike(model: GGUFModel, quantization: str, tmp_path: Path) -> None:
    """The file equals, byte for byte, what llama.cpp's quantizer makes of the F16 file."""
    f16, ours, theirs = (tmp_path / name for name in ("f16", "ours", "theirs"))
    write_gguf(f16, model.metadata("F16"), model.sources, model.choices("F16"), threads=2)
    matrix = random_matrix(model) if quantization in NEEDS_IMATRIX else None
    metadata, means, provenance = model.metadata(quantization), None, None
    if matrix is not None:
        means, provenance = matrix.means(), matrix.provenance("m")
        metadata |= provenance
    llama_quantize(f16, theirs, quantization, means, provenance)
    choices = model.choices(quantization, has_imatrix=matrix is not None)
    write_gguf(ours, metadata, model.sources, choices, threads=2, importance=means)
    assert ours.read_bytes() == theirs.read_bytes()


def random_matrix(model: GGUFModel) -> ImportanceMatrix:
    random = np.random.default_rng(4)
    return ImportanceMatrix(
        {
            name: Importance(random.uniform(0.1, 4, source.shape[-1]).astype(np.float32), 1)
            for name, source in model.sources.items()
            if name.startswith("blk.") and len(source.shape) == 2
        },
        chunks=1,
    )


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
