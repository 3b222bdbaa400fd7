"""The imported checkpoint computes what llama.cpp computes from the same GGUF."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import ROOT
from tuneserve.base import import_gguf
from tuneserve.divergence import divergence
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaContext, LlamaModel
from tuneserve.safetensors import SafetensorsWriter, TensorSpec

TEXTS = (
    "The capital of France is Paris, and the capital of Germany is Berlin.",
    "<|im_start|>user\nAdd 12345 and 678.<|im_end|>\n<|im_start|>assistant\nThe sum is 13023.",
    "Größe, naïve 日本語 🚀: once upon a time there was a very small language model.",
)


@pytest.mark.slow
def test_logits_equal_llama_cpp_on_the_f32_gguf(checkpoint: Path, f32_gguf: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ours, theirs = [], []
    with (
        LlamaModel(f32_gguf) as llama,
        LlamaContext(
            llama, n_ctx=256, cache_type_k="f32", cache_type_v="f32", flash_attention=False
        ) as context,
    ):
        for text in TEXTS:
            ids = llama.tokenize(text)
            with torch.no_grad():
                ours.append(model(torch.tensor([ids])).logits[0].numpy())
            theirs.append(context.logits(ids))
    found = divergence(theirs, ours)
    assert found.mean < 1e-4
    assert found.same_top == 1.0


def test_config_tells_what_the_gguf_says(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["num_hidden_layers"]) == (576, 30)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (9, 3)
    assert config["rms_norm_eps"] == 1e-05
    assert config["rope_theta"] == 100000.0
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


def test_refuses_to_overwrite(checkpoint: Path, gguf: Path) -> None:
    with pytest.raises(OutputExistsError):
        import_gguf(gguf, checkpoint)


def test_unknown_architecture_is_named(gguf: Path, tmp_path: Path) -> None:
    changed = tmp_path / "other.gguf"
    data = gguf.read_bytes()[:8_000_000]
    at = data.index(b"general.architecture") + len("general.architecture") + 12
    assert data[at : at + 5] == b"llama"
    with changed.open("wb") as file:
        file.write(data[:at] + b"tiger" + gguf.read_bytes()[at + 5 :])
    with pytest.raises(UsageError, match="'tiger' is not supported"):
        import_gguf(changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.03, 0.5, 0.999])
def test_a_truncated_gguf_is_one_clear_error(gguf: Path, tmp_path: Path, share: float) -> None:
    cut = tmp_path / "cut.gguf"
    with gguf.open("rb") as source:
        cut.write_bytes(source.read(int(gguf.stat().st_size * share)))
    with pytest.raises(UsageError, match="truncated or damaged"):
        import_gguf(cut, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [cut]


def test_no_gguf_is_said_so(tmp_path: Path) -> None:
    other = tmp_path / "x.gguf"
    other.write_text("hello")
    with pytest.raises(UsageError, match="not a GGUF file"):
        GGUFFile(other)
    with pytest.raises(UsageError, match="no such file"):
        GGUFFile(tmp_path / "absent.gguf")


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from(["F32", "F16"]),
)
def test_safetensors_written_in_a_stream_read_back(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], dtype: str
) -> None:
    from safetensors.numpy import load_file

    path = tmp_path_factory.mktemp("safe") / "x.safetensors"
    random = np.random.default_rng(0)
    arrays = [
        random.normal(size=shape).astype(f"<f{4 if dtype == 'F32' else 2}") for shape in shapes
    ]
    specs = [TensorSpec(f"t{i}", dtype, tuple(shape)) for i, shape in enumerate(shapes)]
    with SafetensorsWriter(path, specs) as writer:
        for spec, array in zip(specs, arrays, strict=True):
            writer.write(spec.name, [array.tobytes()])
    loaded = load_file(path)
    for spec, array in zip(specs, arrays, strict=True):
        np.testing.assert_array_equal(loaded[spec.name], array)


def test_a_tensor_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="never written"),
        SafetensorsWriter(tmp_path / "x", [TensorSpec("a", "F32", (1,))]),
    ):
        pass


def test_an_import_that_is_ended_leaves_nothing(gguf: Path, tmp_path: Path) -> None:
    """By SIGTERM, as a supervisor or `timeout` ends a process."""
    command = [sys.executable, "-m", "tuneserve", "import", str(gguf), str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.*/out/config.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
