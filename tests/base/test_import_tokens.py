"""Token ids of the imported tokenizer are llama.cpp's on the same GGUF."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tuneserve.finetune.tokens.missing import missing_bytes, missing_character
from tuneserve.llama import LlamaModel

WORDS = ["hello", "World", "don't", "I'LL", "naïve", "Größe", "Привет", "日本語", "한국어", "اللغة",
         "हिन्दी", "ไทย", "🚀", "👨‍👩‍👧", "e\u0301", "ﬁ", "x²"]  # fmt: skip
CODE = ["def f(x):", "\n    ", "return", "+= 1;", "//", "\t", "{}", "[i]", "==", "'re", "#", "\\n"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>", "user\n"]
SPACES = " \t\n\r\u00a0\u2003\u3000\u200b"
WITHOUT_TOKEN = "\x04\x06\x13\x14\x16\x1d"
"""Of the characters below U+3000 those that SmolLM2's vocabulary has no token for."""
DIGITS = "0123456789 .,-²½٣Ⅷ"


def assigned(character: str) -> bool:
    """Code points that some Unicode version in use does not know yet are left out."""
    return unicodedata.category(character) not in ("Cn", "Cs")


LETTERS = [c for c in map(chr, range(0x20, 0x3100)) if assigned(c)]
SYMBOLS = [c for c in map(chr, range(0x1F300, 0x1FA00)) if assigned(c)]


def sample_text(choose: random.Random, special: Sequence[str] = SPECIAL) -> str:
    kind, length = choose.randrange(6), choose.randrange(1, 60)
    if kind == 0:
        return "".join(choose.choice(LETTERS + SYMBOLS) for _ in range(length))
    if kind == 1:
        return "".join(choose.choice(SPACES + "ab1.'") for _ in range(length))
    if kind == 2:
        return "".join(choose.choice(DIGITS) for _ in range(length))
    if kind == 3:
        return "".join(choose.choice(CODE + WORDS) for _ in range(length // 3 + 1))
    if kind == 4:
        return "".join(choose.choice([*special, *WORDS, " ", "\n"]) for _ in range(length // 3 + 1))
    return " ".join(choose.choice(WORDS) for _ in range(length // 4 + 1))


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def test_ids_equal_llama_cpp_on_2000_texts(tokenizer: Tokenizer, vocabulary: LlamaModel) -> None:
    choose = random.Random(20)
    texts = [sample_text(choose) for _ in range(2000)]
    different = [
        text
        for text in texts
        if tokenizer.encode(text, add_special_tokens=False).ids != vocabulary.tokenize(text)
    ]
    assert different == []


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(
        st.characters(
            max_codepoint=0x2FFF,
            exclude_categories=("Cs", "Cn"),
            exclude_characters=WITHOUT_TOKEN,
        )
    )
)
def test_ids_equal_llama_cpp(tokenizer: Tokenizer, vocabulary: LlamaModel, text: str) -> None:
    assert tokenizer.encode(text, add_special_tokens=False).ids == vocabulary.tokenize(text)


def test_which_characters_have_no_token(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    missing = missing_bytes(AutoTokenizer.from_pretrained(checkpoint))
    found = "".join(c for c in map(chr, range(0x3000)) if missing_character(c, missing))
    assert found == WITHOUT_TOKEN
    # Beyond the plane of ordinary text, those whose first byte is F1 or F2.
    assert missing_character("🚀\U0003ffff", missing) is None
    assert missing_character("a\U00040000", missing) == "\U00040000"
    assert missing_character("a\U000bffff", missing) == "\U000bffff"
    assert missing_character("\U000c0000\U0010ffff", missing) is None


@pytest.mark.parametrize("character", WITHOUT_TOKEN)
def test_a_character_without_a_token_is_dropped(
    tokenizer: Tokenizer, vocabulary: LlamaModel, character: str
) -> None:
    """By both, but its neighbours become one token in the one only: training refuses it."""
    assert tokenizer.encode(character, add_special_tokens=False).ids == []
    assert vocabulary.tokenize(character) == []
    text = f" {character}!"
    assert tokenizer.encode(text, add_special_tokens=False).ids == vocabulary.tokenize(" !")
    assert vocabulary.tokenize(text) == vocabulary.tokenize(" ") + vocabulary.tokenize("!")


def test_decoding_gives_the_text_back(tokenizer: Tokenizer) -> None:
    choose = random.Random(21)
    for _ in range(200):
        text = sample_text(choose)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_transformers_reads_the_same_tokenizer(
    checkpoint: Path, tokenizer: Tokenizer, vocabulary: LlamaModel
) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(checkpoint)
    text = "<|im_start|>user\nWhat's 12345 + 2?<|im_end|>\n  naïve 日本語"
    assert loaded(text)["input_ids"] == vocabulary.tokenize(text, add_special=True)
    assert loaded.eos_token_id == vocabulary.eos
    assert loaded.bos_token_id == vocabulary.bos
    assert loaded.chat_template == vocabulary.metadata("tokenizer.chat_template")
    assert loaded.clean_up_tokenization_spaces is False
