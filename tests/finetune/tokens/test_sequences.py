"""Which sequences an example becomes, and what its text brings that is not text."""

from __future__ import annotations

from typing import Any

import pytest

from tuneserve.chat.examples import CONTINUES, Example
from tuneserve.errors import UsageError
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.tokens.encoder import IGNORED, Encoder, encode_each


def chat(answer: str, question: str = "Name one.") -> Example:
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Example("x", messages, where="x.jsonl:1")


def text(content: str) -> Example:
    return Example("x", ({"role": "assistant", "content": content},), where="x.jsonl:1")


def told(tokenizer: Any, example: Example, **settings: Any) -> tuple[list[str], list[str]]:
    """(trained texts, notes or problems)."""
    notes = Notes()
    encoder = Encoder(tokenizer, **{"max_length": 512, **settings})
    _, encoded, problems = encode_each(encoder, [example], notes)
    texts = [tokenizer.decode([t for t in item.labels if t != IGNORED]) for item in encoded]
    return texts, problems + [note.text for note in notes]


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>", "<|im_end|>\n", " <|im_end|>"])
def test_an_end_token_of_the_data_is_taken_out(demo_tokenizer: Any, end: str) -> None:
    texts, notes = told(demo_tokenizer, chat(f"Iron.{end}"))
    assert texts == ["Iron.<|im_end|>"]
    assert notes == [
        f"an answer ends with {end.strip()}: taken out, since the template writes the end"
    ]


def test_every_end_token_of_the_data_is_taken_out(demo_tokenizer: Any) -> None:
    texts, notes = told(demo_tokenizer, chat("Iron.<|im_end|><|im_end|> <|endoftext|>"))
    assert texts == ["Iron.<|im_end|>"]
    assert len(notes) == 2


def test_an_end_token_of_other_models_is_told(demo_tokenizer: Any) -> None:
    texts, notes = told(demo_tokenizer, chat("Iron.</s>"))
    assert texts == ["Iron.</s><|im_end|>"]
    assert notes == ["an answer ends with </s>, of other models: it is trained as text"]
    assert told(demo_tokenizer, chat("<s>Iron</s>"))[1] == notes
    struck = "Not <s>gold</s>"
    assert told(demo_tokenizer, chat(struck)) == ([f"{struck}<|im_end|>"], [])


def test_an_answer_of_an_end_token_alone_is_refused(demo_tokenizer: Any) -> None:
    _, problems = told(demo_tokenizer, chat("<|im_end|>"))
    assert problems[0] == "x.jsonl:1: the answer is nothing but an end token"


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_special_tokens_in_texts_are_text_or_tokens_or_refused(
    demo_tokenizer: Any, end: str
) -> None:
    item = chat(f"The mark {end} ends a turn.", f"What is {end}?")
    number = demo_tokenizer.convert_tokens_to_ids(end)

    def ids(mode: str) -> list[int]:
        encoder = Encoder(demo_tokenizer, max_length=512, special_tokens=mode)
        return encoder.encode(encoder.read(item, Notes())).input_ids

    template = demo_tokenizer.apply_chat_template(list(chat("a").messages), tokenize=False)
    assert ids("text").count(number) == template.count(end)
    assert ids("control").count(number) == template.count(end) + 2
    assert demo_tokenizer.decode(ids("text")) == demo_tokenizer.decode(ids("control"))
    assert told(demo_tokenizer, item)[1] == ["special tokens in texts, trained as plain text"]
    control = told(demo_tokenizer, item, special_tokens="control")[1]
    assert control == ["special tokens in texts, trained as the tokens they spell"]
    refused = told(demo_tokenizer, item, special_tokens="refuse")[1]
    assert refused == [f"x.jsonl:1: its text spells out special tokens: {end}"]


def test_a_rendered_conversation_given_as_text_is_told(demo_tokenizer: Any) -> None:
    _, notes = told(demo_tokenizer, text("<|im_start|>user\nHi<|im_end|>\nHello"))
    assert "give its messages" in notes[0]


def test_a_long_text_is_cut_into_pieces_of_which_none_is_lost(demo_tokenizer: Any) -> None:
    story = "".join(f"The river rose for the {n}th time. Nobody slept.\n" for n in range(40))
    encoder = Encoder(demo_tokenizer, max_length=64)
    notes = Notes()
    kept, encoded, problems = encode_each(encoder, [text(story)], notes)
    assert problems == []
    assert len(kept) > 5
    assert "".join(item.messages[0]["content"] for item in kept) == story
    assert all(item.length_before_cut <= 64 and not item.lost for item in encoded)
    assert [item.messages[0].get(CONTINUES) for item in kept] == [True] * (len(kept) - 1) + [None]
    end = demo_tokenizer.eos_token_id
    assert [item.labels[-1] == end for item in encoded] == [False] * (len(kept) - 1) + [True]
    assert all(item.messages[0]["content"].endswith("\n") for item in kept)
    assert [note.text for note in notes] == ["a text longer than max_seq_length, cut into pieces"]


def test_a_long_text_without_a_break_is_cut_too(demo_tokenizer: Any) -> None:
    word = "".join(chr(0x4E00 + n) for n in range(500))
    kept, encoded, problems = encode_each(Encoder(demo_tokenizer, max_length=64), [text(word)])
    assert problems == []
    assert "".join(item.messages[0]["content"] for item in kept) == word
    assert all(not item.lost for item in encoded)


@pytest.mark.parametrize(
    ("too_long", "texts", "told_of"),
    [
        ("drop", 0, "an example longer than max_seq_length, left out"),
        ("refuse", 0, "x.jsonl:1: it has"),
    ],
)
def test_an_answer_that_would_be_cut(
    demo_tokenizer: Any, too_long: str, texts: int, told_of: str
) -> None:
    long = chat("word " * 100)
    found, notes = told(demo_tokenizer, long, max_length=64, too_long=too_long)
    assert len(found) == texts
    assert notes[0].startswith(told_of)
    assert len(told(demo_tokenizer, long, max_length=64)[0]) == 1


def test_nothing_is_left_out_where_an_example_must_have_its_tokens(demo_tokenizer: Any) -> None:
    """The other wordings of an example are encoded so: one that is lost would shift the others."""
    encoder = Encoder(demo_tokenizer, max_length=64, too_long="drop")
    with pytest.raises(UsageError, match="max_seq_length is 64"):
        encoder.encode_all([chat("short"), chat("word " * 100)])


def test_earlier_thoughts_are_trained_where_the_template_does_not_write_them(
    demo_tokenizer: Any,
) -> None:
    def turn(question: str, thoughts: str, answer: str) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, "reasoning_content": thoughts},
        ]

    messages = (*turn("2+2?", "Two and two.", "4"), *turn("3+3?", "Three and three.", "6"))
    texts, notes = told(demo_tokenizer, Example("x", messages, where="x.jsonl:1"))
    assert texts == [
        "<think>\nTwo and two.\n</think>\n\n4<|im_end|>",
        "<think>\nThree and three.\n</think>\n\n6<|im_end|>",
    ]
    assert any(note.startswith("thoughts of earlier answers") for note in notes)
    dropped, _ = told(demo_tokenizer, Example("x", messages), thoughts="drop")
    assert dropped == ["4<|im_end|>6<|im_end|>"]


def test_calls_that_the_template_does_not_know_are_trained_as_text(demo_tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"city": "Bonn"}}}
    messages = (
        {"role": "user", "content": "Weather in Bonn?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "11"},
        {"role": "assistant", "content": "11 degrees"},
    )
    texts, _ = told(demo_tokenizer, Example("x", messages))
    assert texts == [
        '<tool_call>{"name": "look_up", "arguments": {"city": "Bonn"}}</tool_call><|im_end|>'
        "11 degrees<|im_end|>"
    ]


def test_what_the_template_does_not_write_is_refused_by_name(demo_tokenizer: Any) -> None:
    saved = demo_tokenizer.chat_template
    demo_tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'system' or not loop.last %}"
        "{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endif %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    try:
        first = {"role": "user", "content": "First of two."}
        item = chat("Yes.")
        told_of = told(demo_tokenizer, Example("x", (
            {"role": "system", "content": "Be brief."}, first,
            {"role": "system", "content": "Be long."}, *item.messages,
        ), where="x.jsonl:1"))[1]  # fmt: skip
    finally:
        demo_tokenizer.chat_template = saved
    assert [text.partition(": the model")[0] for text in told_of] == [
        "x.jsonl:1: this base's chat template does not write the system prompt"
    ]


GREETED = Example(
    "x",
    (
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "Do you sell tea?"},
        {"role": "assistant", "content": "Yes."},
    ),
    where="x.jsonl:1",
)


def test_a_greeting_is_trained_where_it_stands(demo_tokenizer: Any) -> None:
    notes = Notes()
    encoder = Encoder(demo_tokenizer, max_length=512)
    kept, (encoded,), _ = encode_each(encoder, [GREETED], notes)
    assert kept == [GREETED]
    assert not notes
    trained = [token for token in encoded.labels if token != IGNORED]
    assert demo_tokenizer.decode(trained) == "Welcome.<|im_end|>Yes.<|im_end|>"
    assert encoded.labels[0] == IGNORED


def test_a_greeting_that_the_template_changes_is_context_and_told(demo_tokenizer: Any) -> None:
    saved = demo_tokenizer.chat_template
    demo_tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% if m.role == 'assistant' and not loop.last %} ({{ loop.index }}){% endif %}"
        "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    try:
        texts, notes = told(demo_tokenizer, GREETED)
    finally:
        demo_tokenizer.chat_template = saved
    assert texts == ["Yes.<|im_end|>"]
    assert notes == ["a greeting that this template changes later: read, and not trained"]
