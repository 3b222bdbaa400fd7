from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.chat.examples import Example
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded, Encoder
from tuneserve.finetune.tokens.pieces import Piece, characters, joined, pieces, shortened

TEXTS = {
    "Chinese": "人工智能正在改变我们的生活方式,龘靐齉爩。",
    "Hindi": "कृत्रिम बुद्धिमत्ता हमारे जीवन को बदल रही है।",
    "Russian": "Искусственный интеллект меняет нашу жизнь.",
    "emoji": "🧑‍🚀🇳🇴 done 𝔘𝔫𝔦",
    "a replacement character of its own": "bad \ufffd\ufffd byte, 龘\ufffd龘",
}


def all_trained(tokenizer: Any, text: str) -> Encoded:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Encoded(ids, ids, len(ids), 0)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_character_spread_over_tokens_is_shown_whole(demo_tokenizer: Any, text: str) -> None:
    encoded = all_trained(demo_tokenizer, text)
    found = list(characters(demo_tokenizer, frozenset(), encoded))
    if "И" not in text:  # Cyrillic letters are tokens of this vocabulary
        assert len(found) < len(encoded.input_ids)
    assert "".join(piece.text for piece in found) == text
    assert sum(piece.tokens for piece in found) == len(encoded.input_ids)
    # No piece begins or ends within a character, wherever a screen makes it stop.
    for end in range(len(found)):
        assert text.startswith("".join(piece.text for piece in found[:end]))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(0, 30))
def test_what_is_shown_is_the_text_whatever_is_trained_of_it(
    demo_tokenizer: Any, text: str, masked: int
) -> None:
    encoded = all_trained(demo_tokenizer, text)
    labels = [IGNORED if n < masked else one for n, one in enumerate(encoded.input_ids)]
    found = pieces(demo_tokenizer, frozenset(), Encoded(encoded.input_ids, labels, len(labels), 0))
    whole = demo_tokenizer.decode(encoded.input_ids, clean_up_tokenization_spaces=False)
    assert "".join(piece.text for piece in found) == whole


def test_a_space_between_pieces_is_kept_by_decoders_that_drop_the_first_one() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"▁Say": 0, "▁it": 1, "▁so": 2, "</s>": 3}
    made = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    assert tokenizer.decode([1]) == "it"
    encoded = Encoded([0, 1, 2, 3], [IGNORED, IGNORED, 2, 3], 4, 0)
    assert [(p.text, p.kind, p.trained) for p in pieces(tokenizer, frozenset({3}), encoded)] == [
        ("Say it", "context", False), (" so", "trained", True), ("</s>", "special", True),
    ]  # fmt: skip


def test_special_tokens_are_pieces_of_their_own(demo_tokenizer: Any) -> None:
    encoder = Encoder(demo_tokenizer, max_length=512)
    messages = (
        {"role": "system", "content": "S"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "Two."},
    )
    encoded = encoder.encode(Example("x", messages))
    found = pieces(demo_tokenizer, encoder.special_ids, encoded)
    assert "".join(piece.text for piece in found) == demo_tokenizer.decode(encoded.input_ids)
    assert [(p.text, p.kind) for p in found if p.trained] == [
        ("Two.", "trained"), ("<|im_end|>", "special"),
    ]  # fmt: skip
    assert [p.text for p in found if p.kind == "special"][:2] == ["<|im_start|>", "<|im_end|>"]


def test_a_long_example_loses_its_middle_and_says_how_much() -> None:
    letters = [Piece("字", "context", trained=False) for _ in range(500)]
    letters += [Piece("a", "trained", trained=True) for _ in range(500)]
    found = shortened(letters, rows=10, width=20)
    assert sum(piece.tokens for piece in found) == 1000
    left = [piece for piece in found if piece.kind == "left out"]
    head, tail = found.index(left[0]), found[::-1].index(left[0])
    assert head == 5 * 20 // 2 - 1, "two cells a character"
    assert tail == 5 * 20 - 1
    assert left == [Piece(
        f"… {1000 - head - tail} tokens left out here, {500 - tail} of them trained …",
        "left out", trained=False, tokens=1000 - head - tail,
    )]  # fmt: skip
    assert [p.kind for p in joined(found)] == ["context", "left out", "trained"]


def test_an_example_that_fits_is_shown_whole() -> None:
    lines = [Piece("one line\n", "context", trained=False) for _ in range(9)]
    assert shortened(lines, rows=10, width=80) == lines
    assert [p.kind for p in shortened(lines * 2, rows=10, width=80)].count("left out") == 1
