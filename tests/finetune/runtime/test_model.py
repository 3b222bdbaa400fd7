"""The base's tokenizer, before any weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.model import check_convertible, load_tokenizer
from tuneserve.gguf.reader import GGUFFile
from tuneserve.settings import ModelSettings


def test_a_tokenizer_that_conversion_would_refuse_is_refused_before_training(
    llama_cpp_source: Path, tmp_path: Path
) -> None:
    write_tokenizer(GGUFFile(llama_cpp_source / "models" / "ggml-vocab-llama-spm.gguf"), tmp_path)
    check_convertible(load_tokenizer(tmp_path, ModelSettings()), tmp_path)
    # The same files under transformers' class for Llama 2, which cuts text in a way of its own.
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "tokenizer_class": "LlamaTokenizer"})
    )
    with pytest.raises(UsageError, match="Metaspace") as caught:
        check_convertible(load_tokenizer(tmp_path, ModelSettings()), tmp_path)
    assert caught.value.where == str(tmp_path)
    assert "Train on a GGUF of the base" in caught.value.render()


def test_byte_level_tokenizers_pass(demo_base: Path) -> None:
    check_convertible(load_tokenizer(demo_base, ModelSettings()), demo_base)
