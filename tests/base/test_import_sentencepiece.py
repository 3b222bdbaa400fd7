"""Sentencepiece vocabularies: import gives llama.cpp's ids, and pairs and scores say the same."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.base.test_import_tokens import sample_text
from tuneserve.base.tokenizer import tokenizer_json, write_tokenizer
from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.sentencepiece import merges_by_score, missing_pairs, scores_by_merge
from tuneserve.llama import LlamaModel

SPECIAL = {
    "llama-spm": ["<s>", "</s>", "<unk>", "▁", "<0x41>"],
    "phi-3": ["<s>", "</s>", "<|user|>", "<|end|>", "<|endoftext|>", "\n \n"],
    "baichuan": ["<s>", "</s>", "<unk>"],
}


def vocabulary(source: Path, name: str) -> Path:
    return source / "models" / f"ggml-vocab-{name}.gguf"


@pytest.mark.parametrize("name", SPECIAL)
def test_ids_equal_llama_cpp_on_1000_texts(llama_cpp_source: Path, name: str) -> None:
    path = vocabulary(llama_cpp_source, name)
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(GGUFFile(path))))
    choose = random.Random(22)
    with LlamaModel(path, vocab_only=True) as model:
        texts = [sample_text(choose, SPECIAL[name]) for _ in range(1000)]
        different = [
            text
            for text in texts
            if tokenizer.encode(text, add_special_tokens=False).ids != model.tokenize(text)
        ]
        assert different == []
        assert tokenizer.encode("Hi there").ids == model.tokenize("Hi there", add_special=True)


def test_transformers_reads_it_and_gives_the_text_back(
    llama_cpp_source: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    write_tokenizer(GGUFFile(vocabulary(llama_cpp_source, "llama-spm")), tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "  Hello, Größe 日本語 🚀\n\tx"
    ids = loaded(text)["input_ids"]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id) == (1, 2, 0)
    assert loaded.decode(ids, skip_special_tokens=True) == text
    with LlamaModel(vocabulary(llama_cpp_source, "llama-spm"), vocab_only=True) as model:
        assert ids == model.tokenize(text, add_special=True)


def test_scores_made_of_pairs_merge_alike(llama_cpp_source: Path) -> None:
    gguf = GGUFFile(vocabulary(llama_cpp_source, "llama-spm"))
    tokens, scores = gguf.get("tokenizer.ggml.tokens"), gguf.get("tokenizer.ggml.scores")
    # Runs of spaces, which share one score, are left out: their pairs stand in no order.
    kept = [n for n in range(259, len(tokens)) if scores[n] > -1e8]
    left_out = set(tokens) - {tokens[number] for number in kept}
    merges = merges_by_score(tokens, scores, left_out)
    made = scores_by_merge({tokens[number]: number for number in kept}, merges, len(tokens))
    assert len(merges) > 50_000
    assert merges_by_score(tokens, made, left_out) == merges


@given(st.sets(st.text("ab▁", min_size=1, max_size=5), min_size=1, max_size=30), st.randoms())
def test_pairs_and_scores_say_the_same(tokens: set[str], shuffle: random.Random) -> None:
    ordered = sorted(tokens)
    shuffle.shuffle(ordered)
    ids = {token: number for number, token in enumerate(ordered)}
    merges = merges_by_score(ordered, [-float(n) for n in range(len(ordered))], set())
    assert missing_pairs(ids, merges) == []
    scores = scores_by_merge(ids, merges, len(ordered))
    assert merges_by_score(ordered, scores, set()) == merges
    for at, pair in enumerate(merges):
        assert pair in missing_pairs(ids, merges[:at] + merges[at + 1 :]) or not any(
            left + right == "".join(pair) for left, right in merges[:at] + merges[at + 1 :]
        )


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("tokenizer.ggml.scores", [0.0], "1 in tokenizer.ggml.scores"),
        ("tokenizer.ggml.token_type", [1, 1], "2 in tokenizer.ggml.token_type"),
        ("tokenizer.ggml.eos_token_id", 3, "eos_token_id is 3 of 3 tokens"),
        ("tokenizer.ggml.merges", ["ab"], "'ab' is no merge"),
        ("tokenizer.ggml.tokens", ["a", "a", "b"], "stands there twice"),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(
    llama_cpp_source: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object, problem: str
) -> None:
    gguf = GGUFFile(vocabulary(llama_cpp_source, "llama-spm"))
    small = {"tokenizer.ggml.tokens": ["a", "b", "c"], "tokenizer.ggml.scores": [0.0] * 3,
             "tokenizer.ggml.token_type": [1] * 3}  # fmt: skip
    monkeypatch.setattr(gguf, "metadata", {**gguf.metadata, **small, key: value})
    with pytest.raises(UsageError, match="vocabulary is damaged") as caught:
        tokenizer_json(gguf)
    assert problem in str(caught.value.problems)
