"""Texts full of special tokens: the same ids as llama_tokenize gives, in linear time."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import pytest

import tuneserve.llama.model as model_module
from tests.support import ModulePaths
from tuneserve.llama import LlamaModel, TooManyTokensError
from tuneserve.llama.special_texts import any_of

VOCABULARIES = (
    "deepseek-llm", "gpt-neox", "llama-bpe", "llama-spm", "nomic-bert-moe", "phi-3", "qwen2",
)  # fmt: skip
OVERLAPPING = ("ab", "bc", "abc", "ca", "aa", "aaa", "<a>", "a><", "><b", "  ", "   ", "b c")
PLAIN = ("Hello", " world", "a", "é", "🦙", "中文", "<", "|", "123", "<|", "[", "▁", "\0", "c", "b")


@pytest.fixture(scope="module")
def overlapping(module_paths: ModulePaths) -> Iterator[LlamaModel]:
    """A sentencepiece vocabulary whose special tokens overlap each other and themselves."""
    path = module_paths.mktemp("vocabulary") / "overlapping.gguf"
    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens += [(text, kinds.USER_DEFINED) for text in OVERLAPPING]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    writer = gguf.GGUFWriter(str(path), "llama")
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_block_count,
                writer.add_feed_forward_length, writer.add_head_count):  # fmt: skip
        add(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kind for _, kind in tokens])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with LlamaModel(path, vocab_only=True) as loaded:
        yield loaded


def texts(seed: int, special: Sequence[str], count: int) -> Iterator[str]:
    """Special tokens whole, cut and beside each other, white space and other text."""
    chance = random.Random(seed)
    for _ in range(count):
        some = chance.sample(special, min(len(special), chance.choice([1, 3, 30])))
        parts = []
        for _ in range(chance.randint(1, 40)):
            one = chance.choice(some)
            cut = chance.randint(0, len(one))
            blank = chance.choice(["\n", "\t", " ", "\u00a0", "\r\n"]) * chance.randint(1, 9)
            parts.append(chance.choice([one, one, one[cut:], one[:cut], blank, *PLAIN[:3]]))
            parts.append(chance.choice(["", "", chance.choice(PLAIN)]))
        yield "".join(parts)


def check_same_ids(model: LlamaModel, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    special = [text.decode("utf-8", "ignore") for text in model.special_texts(True).known]
    for text in texts(0, special, count):
        for parse_special in (True, False):
            monkeypatch.setattr(model_module, "SHORT_TEXT", len(text) * 8)
            theirs = model.tokenize(text, parse_special=parse_special)
            monkeypatch.setattr(model_module, "SHORT_TEXT", -1)
            monkeypatch.setattr(model_module, "FEW_SPECIAL", -1)
            assert model.tokenize(text, parse_special=parse_special) == theirs, repr(text)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_are_those_of_llama_tokenize(
    llama_cpp_source: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = llama_cpp_source / "models" / f"ggml-vocab-{name}.gguf"
    with LlamaModel(path, vocab_only=True) as model:
        check_same_ids(model, monkeypatch, 60)


def test_ids_are_those_of_llama_tokenize_where_special_tokens_overlap(
    overlapping: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_same_ids(overlapping, monkeypatch, 1500)


@pytest.mark.parametrize("repeated", ["<|im_end|>", "<|im_end|>x", "<|im_end", " <|im_start|>"])
def test_half_a_million_characters_of_special_tokens_take_well_below_a_second(
    demo_gguf: Path, repeated: str
) -> None:
    with LlamaModel(demo_gguf, vocab_only=True) as model:
        expected = model.tokenize(repeated * 300)
        text = repeated * (500_000 // len(repeated))
        started = time.perf_counter()
        ids = model.tokenize(text)
        assert time.perf_counter() - started < 1.5
        assert ids[: len(expected) - 4] == expected[:-4]
        started = time.perf_counter()
        with pytest.raises(TooManyTokensError) as caught:
            model.tokenize(text * 20, most=8192)
        assert time.perf_counter() - started < 1.5
        assert 8192 < caught.value.least <= 20 * len(ids)


def test_a_text_that_may_fit_is_tokenized_whatever_its_length(demo_gguf: Path) -> None:
    with LlamaModel(demo_gguf, vocab_only=True) as model:
        spaces = " " * 100_000
        ids = model.tokenize(spaces)
        assert model.tokenize(spaces, most=len(ids)) == ids


def test_the_longest_of_texts_is_found_at_each_place() -> None:
    known = ["a", "ab", "abcd", "b", "bb", ".", "(?x)", "abce"]
    found = re.findall(any_of(known), "abcababcdbbb.(?x)abcex")
    assert found == ["ab", "ab", "abcd", "bb", "b", ".", "(?x)", "abce"]
