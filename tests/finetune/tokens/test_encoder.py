from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import prompt_ids
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodingError
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.data.formats import parse_record
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.data.split import Split
from tuneserve.finetune.tokens.encoder import (
    IGNORED,
    Encoded,
    Encoder,
    encode_each,
    encode_parts,
    token_counts,
)
from tuneserve.llama import LlamaModel

TEXTS = [
    "hello",
    "  two\nlines ",
    "naïve café — 東京 🙂",
    "x = [1, 22, 333]\n\tpass",
    "<|im_end|>?",
]


def chat(*turns: str, system: str | None = None) -> Example:
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return Example("x", tuple(messages), where="data.jsonl:3")


def trained_text(tokenizer: Any, encoded: Encoded) -> str:
    text: str = tokenizer.decode([label for label in encoded.labels if label != IGNORED])
    return text


@pytest.fixture(scope="module")
def encoder(demo_tokenizer: Any) -> Encoder:
    return Encoder(demo_tokenizer, max_length=512)


def test_the_loss_counts_the_answer_and_its_end_token_alone(
    encoder: Encoder, demo_tokenizer: Any
) -> None:
    encoded = encoder.encode(chat("What is 1+1?", "It is 2.", system="Be brief."))
    assert trained_text(demo_tokenizer, encoded) == "It is 2.<|im_end|>"
    assert demo_tokenizer.decode(encoded.input_ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 1+1?<|im_end|>\n"
        "<|im_start|>assistant\nIt is 2.<|im_end|>"
    )
    # The loss shifts by one: the end token is the last thing the model learns to say.
    assert encoded.labels[-1] == demo_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert encoded.trained == 6


@pytest.mark.parametrize("text", TEXTS)
def test_rendered_text_equals_the_tokenizers_own(
    encoder: Encoder, demo_tokenizer: Any, text: str
) -> None:
    messages = list(chat(text, "answer").messages)
    own = demo_tokenizer.apply_chat_template(messages, tokenize=False)
    assert encoder.template.render(messages) == own
    prompt = demo_tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    assert encoder.template.render(messages[:-1], add_generation_prompt=True) == prompt


@pytest.mark.parametrize("text", TEXTS)
def test_prompt_ids_equal_those_at_inference(encoder: Encoder, demo_gguf: Path, text: str) -> None:
    example = chat("first", "reply", text, "answer")
    encoded = encoder.encode(example)
    with LlamaModel(demo_gguf, vocab_only=True) as model:
        served = prompt_ids(model, example.messages[:-1])
    assert encoded.input_ids[: len(served)] == served
    assert encoded.labels[len(served)] == encoded.input_ids[len(served)]


def test_every_answer_of_a_conversation_is_trained_or_only_the_last(demo_tokenizer: Any) -> None:
    example = chat("a?", "First.", "b?", "Second.")
    every = Encoder(demo_tokenizer, max_length=512).encode(example)
    last = Encoder(demo_tokenizer, max_length=512, train_on="last").encode(example)
    assert trained_text(demo_tokenizer, every) == "First.<|im_end|>Second.<|im_end|>"
    assert trained_text(demo_tokenizer, last) == "Second.<|im_end|>"
    assert every.input_ids == last.input_ids


def test_an_answer_of_weight_0_is_context_only(encoder: Encoder, demo_tokenizer: Any) -> None:
    record = {"messages": [dict(m) for m in chat("a?", "First.", "b?", "Second.").messages]}
    record["messages"][1]["weight"] = 0
    record["messages"][3]["weight"] = 1
    messages = parse_record(record).messages
    encoded = encoder.encode(Example("x", messages))
    assert trained_text(demo_tokenizer, encoded) == "Second.<|im_end|>"
    assert encoded.input_ids == encoder.encode(chat("a?", "First.", "b?", "Second.")).input_ids
    assert encoded.untaught == ()


def test_a_long_answer_is_cut_and_the_loss_of_it_is_known(demo_tokenizer: Any) -> None:
    encoder = Encoder(demo_tokenizer, max_length=48)
    encoded = encoder.encode(chat("count", " ".join(map(str, range(40)))))
    assert encoded.truncated
    assert len(encoded.input_ids) == 48
    assert encoded.trained + encoded.lost == encoded.length_before_cut - (48 - encoded.trained)


def test_an_example_without_a_trained_token_names_its_line(demo_tokenizer: Any) -> None:
    encoder = Encoder(demo_tokenizer, max_length=48)
    with pytest.raises(EncodingError, match="no token to train on") as caught:
        encoder.encode(chat("word " * 60, "answer"))
    assert caught.value.where == "data.jsonl:3"
    with pytest.raises(UsageError, match=r"2 of 3 examples can't be trained on"):
        encoder.encode_all([chat("a", "b"), chat("word " * 60, "c"), chat("word " * 70, "d")])


@pytest.mark.parametrize(
    ("turns", "shown"),
    [
        (("What is \x16 here?", "Nothing."), "'\\x16' (U+0016)"),
        (("What?", "It is \x04."), "'\\x04' (U+0004)"),
        (("a?", "\U00040000", "b?", "B."), "'\\U00040000' (U+40000)"),
    ],
)
def test_a_character_without_a_token_is_refused_by_name(
    encoder: Encoder, turns: tuple[str, ...], shown: str
) -> None:
    bad = chat(*turns)
    with pytest.raises(UsageError) as caught:
        encoder.encode_all([chat("a", "b"), bad])
    assert caught.value.render().startswith(
        f"data.jsonl:3: {shown} has no token in this base model's vocabulary, so the model can't "
        "read it: take it out (of 2 examples "
    )
    kept, _, problems = encode_each(encoder, [chat("a", "b"), bad])
    assert (kept, len(problems)) == ([chat("a", "b")], 1)


def test_a_plain_text_with_a_character_without_a_token_is_refused(encoder: Encoder) -> None:
    text = Example("x", ({"role": "assistant", "content": "Once\x1d"},), where="a.txt")
    with pytest.raises(EncodingError, match=r"U\+001D\) has no token"):
        encoder.encode(text)


def test_all_problems_of_all_parts_are_found_at_once(demo_tokenizer: Any) -> None:
    encoder = Encoder(demo_tokenizer, max_length=48)
    good, bad = chat("a", "b"), chat("word " * 60, "c")

    def encoded(*, skip_bad: bool) -> tuple[Prepared, dict[str, int], list[str]]:
        split = Split(train=[good, bad, good], eval=[bad], test=[bad, good])
        prepared = Prepared(split, Counter(), skipped=0)
        parts, problems = encode_parts(encoder, prepared, skip_bad=skip_bad)
        assert prepared.parts() == {"train": [good, good], "eval": [], "test": [good]}
        return prepared, {name: len(part) for name, part in parts.items()}, problems

    kept = {"train": 2, "eval": 0, "test": 1}
    prepared, counts, problems = encoded(skip_bad=False)
    assert (counts, prepared.skipped) == (kept, 0)
    assert [problem.split(":")[:2] for problem in problems] == [["data.jsonl", "3"]] * 3
    # What would leave a part empty can't be left out.
    prepared, counts, problems = encoded(skip_bad=True)
    assert (counts, prepared.skipped, len(problems)) == (kept, 2, 1)


def test_an_end_token_is_added_where_the_template_writes_none(demo_tokenizer: Any) -> None:
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    plain += "{% if add_generation_prompt %}assistant: {% endif %}"
    saved = demo_tokenizer.chat_template
    demo_tokenizer.chat_template = plain
    try:
        encoded = Encoder(demo_tokenizer, max_length=512).encode(chat("a", "b"))
    finally:
        demo_tokenizer.chat_template = saved
    assert encoded.labels[-1] == demo_tokenizer.eos_token_id
    assert trained_text(demo_tokenizer, encoded) == "b\n<|im_end|>"


def test_a_base_without_a_template_is_refused(demo_tokenizer: Any) -> None:
    saved = demo_tokenizer.chat_template
    demo_tokenizer.chat_template = None
    try:
        with pytest.raises(TuneserveError, match="no chat template"):
            Encoder(demo_tokenizer, max_length=512).encode_all([chat("a", "b")])
        text = Example("x", ({"role": "assistant", "content": "Once upon"},))
        (encoded,) = Encoder(demo_tokenizer, max_length=512).encode_all([text])
        assert demo_tokenizer.decode(encoded.input_ids) == "Once upon<|im_end|>"
    finally:
        demo_tokenizer.chat_template = saved


def test_counts_are_those_of_the_encoded_examples(encoder: Encoder) -> None:
    encoded = encoder.encode_all([chat("a", "one"), chat("b", "one two three")])
    counts = token_counts(encoded)
    assert counts.examples == 2
    assert counts.trained_tokens == 2 + 4
    assert counts.trained_per_example.to_json() == {"min": 2, "median": 3.0, "max": 4}
    assert counts.tokens == sum(len(e.input_ids) for e in encoded)


def test_plain_text_is_learned_whole_with_its_end(encoder: Encoder, demo_tokenizer: Any) -> None:
    encoded = encoder.encode(Example("x", ({"role": "assistant", "content": "Once upon"},)))
    assert demo_tokenizer.decode(encoded.input_ids) == "Once upon<|im_end|>"
    assert encoded.labels == encoded.input_ids
