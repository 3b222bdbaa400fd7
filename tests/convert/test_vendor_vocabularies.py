"""Tokenizers imported from llama.cpp's own vocabulary files give the ids those files must give."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tuneserve.base.gguf_file import GGUFFile
from tuneserve.base.tokenizer import tokenizer_json
from tuneserve.files import write_json

SEPARATOR = "\n__ggml_vocab_test__\n"
BYTE_LEVEL = ["gpt-2", "llama-bpe", "qwen2", "starcoder", "refact"]


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_ids_are_the_expected_ones(llama_cpp_source: Path, tmp_path: Path, name: str) -> None:
    gguf = llama_cpp_source / "models" / f"ggml-vocab-{name}.gguf"
    write_json(tmp_path / "tokenizer.json", tokenizer_json(GGUFFile(gguf)))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = gguf.with_name(f"{gguf.name}.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = gguf.with_name(f"{gguf.name}.out").read_text(encoding="utf-8").splitlines()
    assert texts.pop() == ""  # what follows the last separator
    assert len(texts) == len(lines) > 40
    for text, line in zip(texts, lines, strict=True):
        expected = [int(number) for number in line.split()]
        assert tokenizer.encode(text, add_special_tokens=False).ids == expected, repr(text)
