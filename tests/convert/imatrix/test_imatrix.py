"""The importance matrix: its sums, its file, and what quantization makes of it.

That the file equals llama-imatrix's byte for byte is measured by benchmarks/convert_imatrix.py,
which needs llama.cpp's tools.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

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
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.imatrix import (
    ImportanceMatrix,
    chunks_of,
    collect,
    training_chunks,
)
from tuneserve.convert.stage import convert
from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

WORDS = "The capital of France is Paris, and 2 + 2 is 4. "
TORCH_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


@pytest.fixture(scope="module")
def wide(tokenizer_directory: Path, module_paths: ModulePaths) -> Trained:
    """Rows of 256 values, so that Q4_K needs no fallback."""
    root = module_paths.mktemp("wide")
    base = make_base(root / "base", tokenizer_directory, hidden_size=256, intermediate_size=512,
                     num_hidden_layers=2, initializer_range=0.05)  # fmt: skip
    adapter = make_adapter(root / "adapter", base, tokenizer_directory)
    return Trained(base, adapter, write_held_out(root / "train.jsonl", count=200))


@pytest.fixture(scope="module")
def f16(wide: Trained, module_paths: ModulePaths) -> Path:
    return write(wide.model(), module_paths.mktemp("f16") / "f16.gguf", "F16")


@pytest.fixture(scope="module")
def matrix(f16: Path) -> ImportanceMatrix:
    with LlamaModel(f16) as model:
        return collect(model, chunks_of(model.tokenize(WORDS * 60), 128), threads=2)


def write(
    model: GGUFModel, path: Path, quantization: str, matrix: ImportanceMatrix | None = None
) -> Path:
    metadata = model.metadata(quantization)
    if matrix is not None:
        metadata |= matrix.provenance("some/where.gguf")
    write_gguf(
        path, metadata, model.sources, model.choices(quantization, has_imatrix=matrix is not None),
        threads=2, importance=matrix.means() if matrix else None,
    )  # fmt: skip
    return path


def test_sums_are_those_of_the_activations(
    wide: Trained, f16: Path, matrix: ImportanceMatrix
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(wide.base, dtype=torch.float32)
    network = PeftModel.from_pretrained(base, wide.adapter).merge_and_unload()
    sums: dict[str, Any] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            added = inputs[0].reshape(-1, inputs[0].shape[-1]).double().square().sum(0)
            sums[name] = sums.get(name, 0) + added.numpy()

        return hook

    for layer in range(2):
        for theirs, ours in TORCH_NAMES.items():
            part = network.get_submodule(f"model.layers.{layer}.{theirs}")
            part.register_forward_pre_hook(watch(f"blk.{layer}.{ours}.weight"))
    with LlamaModel(f16) as model:
        chunks = chunks_of(model.tokenize(WORDS * 60), 128)
    with torch.no_grad():
        for chunk in chunks:
            network(torch.tensor([chunk]))

    assert set(matrix.weights) == set(sums)
    for name, expected in sums.items():
        assert matrix.weights[name].tokens == sum(map(len, chunks))
        # llama.cpp multiplies in float16, which the attention's small sums show most.
        error = np.abs(matrix.weights[name].sums - expected).sum() / expected.sum()
        assert error < 2e-3, name


def test_what_is_written(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    matrix.write(tmp_path / "m.gguf")
    gguf = GGUFFile(tmp_path / "m.gguf")
    assert gguf.get("general.type") == "imatrix"
    assert gguf.get("imatrix.datasets") == ["training examples"]
    assert gguf.get("imatrix.chunk_count") == matrix.chunks
    assert gguf.get("imatrix.chunk_size") == 128
    assert len(gguf.tensors) == 2 * len(matrix.weights)
    for name, entry in matrix.weights.items():
        assert gguf.dequantized(f"{name}.counts").item() == entry.tokens
        assert np.array_equal(gguf.dequantized(f"{name}.in_sum2"), entry.sums)


@pytest.mark.parametrize("quantization", ["Q4_K_M", "IQ4_XS", "Q4_0"])
def test_equals_what_llama_cpp_quantizes_with_it(
    wide: Trained, f16: Path, matrix: ImportanceMatrix, tmp_path: Path, quantization: str
) -> None:
    theirs = tmp_path / "theirs"
    llama_quantize(f16, theirs, quantization, matrix.means(), matrix.provenance("some/where.gguf"))

    ours = write(wide.model(), tmp_path / "ours", quantization, matrix)
    assert ours.read_bytes() == theirs.read_bytes()
    plain = write(wide.model(), tmp_path / "plain", quantization)
    ours_down, plain_down = (
        GGUFFile(path).tensors["blk.1.ffn_down.weight"].data for path in (ours, plain)
    )
    assert ours_down.shape != plain_down.shape or not np.array_equal(ours_down, plain_down)


def test_a_conversion_keeps_its_matrix_and_says_so(run: RunDirectory) -> None:
    write_held_out(run.split("train"), count=40)
    convert(run, ConvertSettings(quantization="Q4_0", imatrix=True, max_quantized_kld=10))
    kept = GGUFFile(run.gguf / "small.imatrix.gguf").tensors
    for path in (run.tuned_gguf("Q4_0"), run.base_gguf("Q4_0")):
        gguf = GGUFFile(path)
        assert gguf.get("quantize.imatrix.file") == "small.imatrix.gguf"
        assert gguf.get("quantize.imatrix.entries_count") == len(kept) // 2 == 3 * 7


def test_types_without_a_choice_need_no_matrix(run: RunDirectory) -> None:
    convert(run, ConvertSettings(quantization="F16", imatrix=True))  # there is no train split
    assert not (run.gguf / "small.imatrix.gguf").exists()


def test_examples_come_from_the_whole_file(wide: Trained, f16: Path, tmp_path: Path) -> None:
    with LlamaModel(f16) as model:
        chunks = training_chunks(model, wide.held_out, 600)
        assert chunks == training_chunks(model, wide.held_out, 600)
        text = b"".join(model.token_bytes(token) for token in chain(*chunks)).decode()
        numbers = {n for n in range(200) if f"What is {n} plus {n}?" in text}
        assert [len(chunk) for chunk in chunks] == [512, 88]
        assert min(numbers) < 100 < max(numbers)
        empty = tmp_path / "empty.jsonl"
        empty.write_text("")
        with pytest.raises(UsageError, match="too few training examples"):
            training_chunks(model, empty, 600)


@given(
    ids=st.lists(st.integers(2, 9), max_size=80), size=st.integers(16, 40),
    bos=st.none() | st.just(1),
)  # fmt: skip
def test_chunks_hold_the_stream(ids: list[int], size: int, bos: int | None) -> None:
    chunks = chunks_of(ids, size, bos=bos)
    joined = list(chain(*chunks))
    assert len(ids) - len(joined) < 16
    assert all(16 <= len(chunk) <= size for chunk in chunks)
    for at, (ours, given_id) in enumerate(zip(joined, ids, strict=False)):
        assert ours == (bos if bos is not None and at % size == 0 else given_id)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_gets_out_of_the_callback(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def stopped(*_: object) -> None:
        raise stop

    monkeypatch.setattr("tuneserve.convert.imatrix.collector._Collector._add", stopped)
    with LlamaModel(demo_gguf) as model, pytest.raises(stop):
        collect(model, chunks_of(model.tokenize(WORDS * 60), 128), threads=2)
