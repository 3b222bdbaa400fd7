"""Texts that a model goes on with, as token ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tuneserve.bench.tasks.texts import TextPrompt, encode_texts
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import encode_text
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel

EXAMPLE = Example.of_turn("1", "q", "a")


@pytest.fixture(scope="module")
def model(demo_gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(demo_gguf, vocab_only=True) as loaded:
        yield loaded


def parts(model: LlamaModel, context: str, continuation: str | None) -> tuple[str, str]:
    (found,) = encode_texts(model, [TextPrompt(EXAMPLE, context, continuation)])
    return tuple(
        b"".join(map(model.token_bytes, ids)).decode() for ids in (found.prompt, found.answer)
    )  # type: ignore[return-value]


def test_white_space_at_the_end_of_a_context_is_the_continuations(model: LlamaModel) -> None:
    assert parts(model, "The sky is", " blue") == ("The sky is", " blue")
    assert parts(model, "The sky is ", "blue") == ("The sky is", " blue")
    assert parts(model, "Answer:\n", "blue") == ("Answer:", "\nblue")


def test_both_are_tokenized_together(model: LlamaModel) -> None:
    (found,) = encode_texts(model, [TextPrompt(EXAMPLE, "An unbeliev", "able story")])
    whole = encode_text(model, "An unbelievable story")
    before = encode_text(model, "An unbeliev")
    assert found.prompt == before
    assert found.answer == whole[len(before) :]


def test_what_is_generated_keeps_its_white_space(model: LlamaModel) -> None:
    assert parts(model, "Answer:\n", None) == ("Answer:\n", "")


def test_nothing_before_a_text_is_a_token_of_its_own(model: LlamaModel) -> None:
    found = encode_texts(
        model, [TextPrompt(EXAMPLE, "", " blue"), TextPrompt(EXAMPLE, " ", "blue")]
    )
    for one in found:
        assert one.prompt == [model.bos if model.bos >= 0 else model.eos]
        assert one.answer == encode_text(model, " blue")


def test_a_continuation_without_tokens_of_its_own_is_refused(model: LlamaModel) -> None:
    context = "unbelieva"
    assert len(encode_text(model, context)) >= len(encode_text(model, "unbelievable"))
    with pytest.raises(UsageError, match="no tokens of its own"):
        encode_texts(model, [TextPrompt(EXAMPLE, context, "ble")])


def test_a_conversation_ends_where_the_assistant_speaks(model: LlamaModel) -> None:
    asked = ({"role": "user", "content": "The sky?"},)
    opened = (*asked, {"role": "assistant", "content": "It is"})
    plain, begun = encode_texts(
        model, [TextPrompt(EXAMPLE, asked, "blue"), TextPrompt(EXAMPLE, opened, " blue")]
    )
    text = b"".join(map(model.token_bytes, plain.answer)).decode()
    assert text == "\nblue"
    assert b"".join(map(model.token_bytes, begun.answer)) == b" blue"
    assert begun.prompt[: len(plain.prompt)] == plain.prompt
