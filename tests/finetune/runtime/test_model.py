"""The base's tokenizer, before any weights are loaded: the ids of its tokenizer.json, whatever
class tokenizer_config.json names."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.base.test_import_tokens import sample_text
from tests.gguf.cut_vocabulary import cut_vocabulary
from tuneserve.base.fast_tokenizer import save_fast_tokenizer
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.convert.verify.hard_strings import HARD_STRINGS
from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.libraries import Runtime
from tuneserve.finetune.runtime.model import load_base, load_tokenizer, write_complete
from tuneserve.gguf.reader import GGUFFile
from tuneserve.settings import ModelSettings

CLASSES = (
    "LlamaTokenizerFast", "LlamaTokenizer", "GemmaTokenizerFast", "Qwen2Tokenizer",
    "PreTrainedTokenizerFast", "CohereTokenizerFast", "GPT2Tokenizer", "NoSuchTokenizer",
)  # fmt: skip


def texts(source: Path, name: str) -> list[str]:
    """Hard strings, llama.cpp's own texts for this vocabulary, and random ones."""
    choose = random.Random(7)
    own = (source / "models" / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8")
    return [
        *HARD_STRINGS,
        *own.split("\n__ggml_vocab_test__\n"),
        *(sample_text(choose) for _ in range(60)),
    ]


def ids_of(tokenizer: Any, asked: list[str]) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked]


def loaded(directory: Path) -> Any:
    return load_tokenizer(directory, ModelSettings())


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "command-r", "llama-spm"])
def test_the_class_named_beside_the_file_changes_no_id(
    llama_cpp_source: Path, tmp_path: Path, name: str
) -> None:
    from transformers import AutoTokenizer

    gguf = llama_cpp_source / "models" / f"ggml-vocab-{name}.gguf"
    classes: tuple[str, ...] = CLASSES
    if name == "llama-spm":
        classes = ("LlamaTokenizerFast", "LlamaTokenizer")
    else:
        gguf = cut_vocabulary(gguf, tmp_path / "v.gguf")
    write_tokenizer(GGUFFile(gguf), tmp_path)
    given = json.loads((tmp_path / "tokenizer_config.json").read_text())
    file = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    asked = texts(llama_cpp_source, name)
    wanted = [file.encode(text, add_special_tokens=False).ids for text in asked]
    for chosen in classes:
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({**given, "tokenizer_class": chosen, "legacy": True})
        )
        tokenizer = loaded(tmp_path)
        assert ids_of(tokenizer, asked) == wanted, chosen
        assert tokenizer("a")["input_ids"] == file.encode("a").ids
    save_fast_tokenizer(tokenizer, tmp_path / "adapter")
    again = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert ids_of(again, asked) == wanted
    assert (again.bos_token, again.eos_token) == (tokenizer.bos_token, tokenizer.eos_token)
    saved = json.loads((tmp_path / "adapter" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "local_files_only" not in saved


@pytest.mark.slow  # a vocabulary of 128,256 tokens
def test_the_whole_llama_3_vocabulary_under_a_llama_class(
    llama_cpp_source: Path, tmp_path: Path
) -> None:
    """What public copies of R1-Distill-Llama carry."""
    write_tokenizer(GGUFFile(llama_cpp_source / "models" / "ggml-vocab-llama-bpe.gguf"), tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "tokenizer_class": "LlamaTokenizerFast"})
    )
    file = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    asked = texts(llama_cpp_source, "llama-bpe")
    wanted = [file.encode(text, add_special_tokens=False).ids for text in asked]
    assert ids_of(loaded(tmp_path), asked) == wanted


def test_a_folder_without_a_tokenizer_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(UsageError, match="no fast version") as caught:
        loaded(tmp_path)
    assert "A tokenizer.model alone is not read" in caught.value.render()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="tokenizer"):
        loaded(tmp_path)


@pytest.mark.parametrize("pad", ["own", "end", None])
def test_what_is_loaded_with_the_model_has_no_token_more(
    llama_cpp_source: Path, tmp_path: Path, pad: str | None
) -> None:
    from transformers import AutoTokenizer

    gguf = llama_cpp_source / "models" / "ggml-vocab-llama-bpe.gguf"
    base, written = tmp_path / "base", tmp_path / "written"
    write_tokenizer(GGUFFile(cut_vocabulary(gguf, tmp_path / "v.gguf")), base)
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text())
    pads = {"own": config["bos_token"], "end": config["eos_token"], None: None}
    path.write_text(
        json.dumps({**config, "tokenizer_class": "LlamaTokenizerFast", "pad_token": pads[pad]})
    )
    tokenizer = loaded(base)
    before = tokenizer.pad_token
    write_complete(tokenizer, written)
    saved = AutoTokenizer.from_pretrained(written)
    assert saved.get_vocab() == tokenizer.get_vocab()
    assert saved.pad_token_id is not None
    assert saved.pad_token_id != saved.eos_token_id
    assert saved.chat_template is None
    assert tokenizer.pad_token == before
    assert (saved.pad_token == before) == (pad == "own")


def test_a_base_that_continues_no_text_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    runtime = Runtime(None, None, "cpu", "fp32")
    with pytest.raises(UsageError, match="no causal language model for 't5'"):
        load_base(runtime, tmp_path, ModelSettings(), "false", four_bit=False)
