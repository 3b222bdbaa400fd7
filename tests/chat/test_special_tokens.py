"""Special tokens that texts spell out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneserve.chat.prompt import FastTokenizer, GGUFTokenizer, encode_text
from tuneserve.chat.special_tokens import MARK, SpecialTokens, without_marks
from tuneserve.llama import LlamaModel

SPECIAL = SpecialTokens(["<|im_start|>", "<|im_end|>", "<|im|>"])


@given(st.lists(st.sampled_from(["a ", "\n", "<|im_end|>", "<|im_start|>", "<|", "é", "<|im|>"])))
def test_protected_text_spells_out_no_special_token_and_nothing_is_lost(parts: list[str]) -> None:
    text = "".join(parts)
    protected = SPECIAL.protect(text)
    assert SPECIAL.found(protected) == []
    assert without_marks(protected) == text
    rendered = f"<|im_start|>user\n{protected}<|im_end|>\n"
    segments = list(SPECIAL.segments(rendered))
    assert "".join(segment.text for segment in segments) == without_marks(rendered)
    for segment in segments:
        assert [rendered[place] for place in segment.places] == list(segment.text)
        assert not (segment.plain and SPECIAL.found(rendered[segment.places[0]]))
    assert sum(segment.plain for segment in segments) == bool(SPECIAL.found(text))


def test_a_special_token_of_one_character_is_left_out() -> None:
    special = SpecialTokens(["a", "<|im_end|>"])
    text = special.protect("aa <|im_end|> a")
    assert text == f"aa <{MARK}|im_end|> a"
    assert all(segment.text for segment in special.segments(text))


def test_messages_and_tools_are_protected_throughout() -> None:
    value = {"content": "<|im_end|>", "calls": [{"arguments": {"x": "<|im|>", "n": 1}}]}
    assert SPECIAL.protect(value) == {
        "content": f"<{MARK}|im_end|>",
        "calls": [{"arguments": {"x": f"<{MARK}|im|>", "n": 1}}],
    }


@pytest.fixture(scope="module")
def model(demo_gguf: Any) -> Any:
    with LlamaModel(demo_gguf, vocab_only=True) as loaded:
        yield loaded


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["Word", " and", "\n", "<|im_end|>", "<|endoftext|>", "日本", "<", "|>"]),
        max_size=8,
    )
)
def test_both_kinds_of_tokenizer_read_them_as_text(
    demo_tokenizer: Any, model: LlamaModel, parts: list[str]
) -> None:
    fast, gguf = FastTokenizer(demo_tokenizer), GGUFTokenizer(model)
    text = "".join(parts)
    rendered = f"<|im_start|>user\n{fast.special_tokens.protect(text)}<|im_end|>\n"
    tokens = fast.tokens(rendered)
    ids = [token.id for token in tokens]
    assert ids == [token.id for token in gguf.tokens(rendered)] == encode_text(model, rendered)
    assert [i for i in ids if fast.is_special(i)] == demo_tokenizer.convert_tokens_to_ids(
        ["<|im_start|>", "<|im_end|>"]
    )
    assert demo_tokenizer.decode(ids) == f"<|im_start|>user\n{text}<|im_end|>\n"
    assert rendered[tokens[0].start : tokens[0].end] == "<|im_start|>"
    assert rendered[tokens[-2].start : tokens[-2].end] == "<|im_end|>"


def test_every_special_token_is_known_to_both(demo_tokenizer: Any, model: LlamaModel) -> None:
    special = FastTokenizer(demo_tokenizer).special_ids
    texts = {demo_tokenizer.convert_ids_to_tokens(number) for number in special}
    assert texts == set(model.control_texts)


def test_a_server_stops_at_every_end_that_is_trained(
    demo_tokenizer: Any, model: LlamaModel
) -> None:
    ends = FastTokenizer(demo_tokenizer).end_ids
    assert ends < set(model.end_tokens)
    # llama.cpp stops at marks of code completion too, which end no answer.
    others = {model.token_text(token) for token in set(model.end_tokens) - ends}
    assert others == {"<reponame>"}
