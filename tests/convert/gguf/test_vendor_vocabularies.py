"""llama.cpp's own vocabulary files: those of a supported kind give the ids they must give, and the
others are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tuneserve.base.tokenizer import tokenizer_json
from tuneserve.errors import UsageError
from tuneserve.gguf.pretokenizers import recognise
from tuneserve.gguf.reader import GGUFFile

SEPARATOR = "\n__ggml_vocab_test__\n"
BYTE_LEVEL = [
    "gpt-2", "llama-bpe", "qwen2", "starcoder", "refact", "mpt", "command-r", "qwen35",
    "deepseek-llm", "deepseek-coder", "falcon", "gpt-neox", "aquila",
]  # fmt: skip
SENTENCEPIECE = ["llama-spm", "phi-3", "baichuan"]
# What is refused, and what the refusal names.
REFUSED = {"bert-bge": "'bert'", "nomic-bert-moe": "'t5'"}
NO_EXPECTATIONS = {"baichuan", "gpt-neox", "aquila"}


def vocabulary(source: Path, name: str) -> Path:
    return source / "models" / f"ggml-vocab-{name}.gguf"


@pytest.mark.parametrize(
    "name",
    [
        *sorted({*BYTE_LEVEL, *SENTENCEPIECE} - NO_EXPECTATIONS),
        pytest.param("gemma-4", marks=pytest.mark.slow),  # half a million merges: seconds
    ],
)
def test_ids_are_the_expected_ones(llama_cpp_source: Path, name: str) -> None:
    gguf = vocabulary(llama_cpp_source, name)
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(GGUFFile(gguf))))
    texts = gguf.with_name(f"{gguf.name}.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = gguf.with_name(f"{gguf.name}.out").read_text(encoding="utf-8").splitlines()
    if not texts[-1]:
        texts.pop()  # what follows the last separator
    assert len(texts) == len(lines) > 40
    for text, line in zip(texts, lines, strict=True):
        expected = [int(number) for number in line.split()]
        assert tokenizer.encode(text, add_special_tokens=False).ids == expected, repr(text)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_the_pre_tokenizer_is_recognised_by_its_structure(
    llama_cpp_source: Path, name: str
) -> None:
    gguf = GGUFFile(vocabulary(llama_cpp_source, name))
    made = tokenizer_json(gguf)
    found = recognise(
        made["pre_tokenizer"],
        ignore_merges=made["model"]["ignore_merges"],
        adds_bos=bool(gguf.get("tokenizer.ggml.add_bos_token")),
        vocabulary=set(made["model"]["vocab"]),
    )
    # llama.cpp treats these as the same.
    same = {"mpt": "gpt-2", "refact": "starcoder", "gpt-neox": "default", "aquila": "default"}
    assert found.name == same.get(name, name)


@pytest.mark.parametrize("name", REFUSED)
def test_an_unknown_kind_is_refused_by_name(llama_cpp_source: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        tokenizer_json(GGUFFile(vocabulary(llama_cpp_source, name)))
    assert REFUSED[name] in str(caught.value)


def test_every_vocabulary_file_is_accounted_for(llama_cpp_source: Path) -> None:
    files = (llama_cpp_source / "models").glob("ggml-vocab-*.gguf")
    names = {path.stem.removeprefix("ggml-vocab-") for path in files}
    assert names == {*BYTE_LEVEL, *SENTENCEPIECE, "gemma-4", *REFUSED}
