"""Reasoning models, with the templates and tokenizers that are really in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import ModulePaths
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodingError, FastTokenizer
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.thinking import complete, split_thoughts
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.tokens.encoder import (
    IGNORED,
    Encoder,
    encode_each,
)
from tuneserve.gguf.reader import GGUFFile
from tuneserve.serve.api.prepare import render_request
from tuneserve.serve.api.protocol import ChatRequest

R1_MARKS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
LLAMA_R1 = ("ggml-vocab-llama-bpe.gguf", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja")
QWEN_R1 = ("ggml-vocab-qwen2.gguf", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja")
QWEN3 = ("ggml-vocab-qwen2.gguf", "Qwen-Qwen3-0.6B.jinja")
QWQ = ("ggml-vocab-qwen2.gguf", "Qwen-QwQ-32B.jinja")
CHATML = ("ggml-vocab-qwen2.gguf", "Qwen-Qwen2.5-7B-Instruct.jinja")
EOS = "<｜end▁of▁sentence｜>"


@pytest.fixture(scope="module")
def tokenizers(llama_cpp_source: Path, module_paths: ModulePaths) -> Any:
    """A tokenizer of a real vocabulary with a real template, by their file names."""
    from transformers import AutoTokenizer

    made: dict[str, Any] = {}

    def get(vocabulary: str, template: str) -> Any:
        if vocabulary not in made:
            directory = module_paths.mktemp("vocabulary")
            write_tokenizer(GGUFFile(llama_cpp_source / "models" / vocabulary), directory)
            made[vocabulary] = AutoTokenizer.from_pretrained(directory)
            # The distills gave reserved places of these vocabularies to R1's marks.
            made[vocabulary].add_special_tokens({"additional_special_tokens": R1_MARKS})
        tokenizer = made[vocabulary]
        source = llama_cpp_source / "models" / "templates" / template
        tokenizer.chat_template = source.read_text(encoding="utf-8")
        r1 = "R1" in template
        tokenizer.bos_token = R1_MARKS[0] if r1 else None
        tokenizer.eos_token = EOS if r1 else "<|im_end|>"
        return tokenizer

    return get


def example(answer: str, thoughts: str | None = None, *before: dict[str, Any]) -> Example:
    final = {"role": "assistant", "content": answer}
    if thoughts is not None:
        final["reasoning_content"] = thoughts
    return Example("x", (*before, {"role": "user", "content": "1+1?"}, final), where="x.jsonl:1")


def parts(tokenizer: Any, item: Example, thoughts: str) -> tuple[str, str]:
    """(text that is context only, text that is trained) of an encoded example."""
    encoded = Encoder(tokenizer, max_length=4096, thoughts=thoughts).encode(item)
    pairs = list(zip(encoded.input_ids, encoded.labels, strict=True))
    context = tokenizer.decode([i for i, label in pairs if label == IGNORED])
    return context, tokenizer.decode([i for i, label in pairs if label != IGNORED])


@pytest.mark.parametrize("files", [LLAMA_R1, QWEN_R1])
def test_r1_writes_the_opening_tag_into_the_prompt_and_it_is_not_trained(
    tokenizers: Any, files: tuple[str, str]
) -> None:
    tokenizer = tokenizers(*files)
    prompt = "<｜begin▁of▁sentence｜><｜User｜>1+1?<｜Assistant｜><think>\n"
    item = example("It is 2.", "One and one.")
    context, trained = parts(tokenizer, item, "train")
    assert context == prompt
    assert trained == f"One and one.\n</think>\n\nIt is 2.{EOS}"
    context, trained = parts(tokenizer, item, "mask")
    assert context.startswith(f"{prompt}One and one.\n</think>")
    assert trained.lstrip() == f"It is 2.{EOS}"
    # An answer that brings no thoughts closes what the prompt has opened, where the template
    # does not close it itself.
    context, trained = parts(tokenizer, item, "drop")
    assert context + trained in (
        f"{prompt}\n</think>\n\nIt is 2.{EOS}", f"{prompt}</think>It is 2.{EOS}"
    )  # fmt: skip
    assert context.startswith(prompt)
    assert trained.endswith(f"It is 2.{EOS}")
    assert parts(tokenizer, example("It is 2."), "train") == (context, trained)


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
# What the answer of a turn may be taken for: letters of the marks around it, of the tag before it.
ODD_ANSWERS = sorted(
    {EOS[first:last] for first in range(len(EOS)) for last in range(first + 1, len(EOS) + 1)}
    - {EOS[first : first + 1] for first in range(len(EOS)) if not EOS[first].strip()}
    | {"t", "th", "Assistant", "<", "<b>2</b>", "<th>", "think", " 2 ", "\n"}
)


@pytest.mark.parametrize("files", [LLAMA_R1, QWEN_R1])
@pytest.mark.parametrize("thoughts", [None, "One and one."])
def test_r1_answers_of_any_letters_are_not_mistaken_for_its_marks(
    llama_cpp_source: Path, files: tuple[str, str], thoughts: str | None
) -> None:
    source = (llama_cpp_source / "models" / "templates" / files[1]).read_text(encoding="utf-8")
    template = ChatTemplate(source, bos_token=R1_MARKS[0], eos_token=EOS)
    question = {"role": "user", "content": "Which letters?"}
    variables: dict[str, Any] = {"enable_thinking": True} if thoughts else {}
    prompt = template.render([question], add_generation_prompt=True, **variables)
    for answer in ODD_ANSWERS:
        turn = {"role": "assistant", "content": answer}
        completion = complete(prompt, template.render([question, turn]), answer, thoughts)
        if not answer.strip():
            assert completion is None
            continue
        assert completion is not None
        closed = prompt.endswith("</think>")
        before = "" if closed else "</think>\n\n"
        assert completion.text.endswith(f"{before}{answer}{EOS}"), answer
        written = completion.text.removesuffix(f"{before}{answer}{EOS}").strip()
        assert written == (thoughts or ""), answer


@pytest.mark.parametrize("files", [LLAMA_R1, QWEN_R1])
def test_an_answer_that_the_template_changes_is_refused(
    tokenizers: Any, files: tuple[str, str]
) -> None:
    item = example("Close it with </think>, then answer.")
    with pytest.raises(EncodingError, match="does not render the answer") as caught:
        Encoder(tokenizers(*files), max_length=4096).encode(item)
    assert caught.value.where == "x.jsonl:1"


@pytest.mark.parametrize("files", [LLAMA_R1, QWEN_R1])
def test_tools_are_told_in_training_as_served_and_called_as_the_template_does(
    tokenizers: Any, files: tuple[str, str]
) -> None:
    """R1's templates write calls and know no descriptions: these are in the system prompt."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    asked = {"role": "user", "content": "1+1?"}
    turn = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    tokenizer = tokenizers(*files)
    context, trained = parts(tokenizer, Example("x", (asked, turn), tools=(tool,)), "train")
    request = ChatRequest.model_validate({"messages": [asked], "tools": [tool]})
    fast = FastTokenizer(tokenizer)
    served, _ = render_request(fast.template(), request, fast.special_tokens)
    assert context.startswith(served.removesuffix("</think>"))
    assert '{"name": "add", "parameters": {}}' in context
    begin = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add"
    assert f'{begin}\n```json\n{{"a": 1}}\n```<｜tool▁call▁end｜>' in trained
    assert trained.endswith(EOS)
    assert trained.count(EOS) == 1


def test_a_call_without_text_is_trained_where_the_template_renders_it(tokenizers: Any) -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    item = Example("x", ({"role": "user", "content": "1+1?"}, turn))
    _, trained = parts(tokenizers(*CHATML), item, "train")
    assert trained == (
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    )


def test_an_answer_about_tags_does_not_count_as_thoughts() -> None:
    answer = "Write <think>a</think> in HTML."
    completion = complete("[user]1+1?[assistant]<think>\n", f"[user]1+1?[assistant]{answer}[end]",
                          answer, None)  # fmt: skip
    assert completion is not None
    assert completion.text == f"\n</think>\n\n{answer}[end]"
    assert completion.text[completion.thoughts_end :] == f"{answer}[end]"


@pytest.mark.parametrize("files", [LLAMA_R1, QWEN_R1])
def test_r1_has_exactly_one_bos(tokenizers: Any, files: tuple[str, str]) -> None:
    tokenizer = tokenizers(*files)
    ids = Encoder(tokenizer, max_length=4096).encode(example("2")).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_r1_earlier_turns_lose_their_thoughts_and_are_context(tokenizers: Any) -> None:
    earlier = (
        {"role": "user", "content": "0+1?"},
        {"role": "assistant", "content": "1.", "reasoning_content": "Easy."},
    )
    context, trained = parts(tokenizers(*LLAMA_R1), example("2.", "Hm.", *earlier), "train")
    assert "Easy." not in context + trained
    assert context.count("<think>") == 1
    assert f"<｜Assistant｜>1.{EOS}<｜User｜>" in context
    assert trained == f"Hm.\n</think>\n\n2.{EOS}"


def test_qwen3_renders_thoughts_itself(tokenizers: Any) -> None:
    tokenizer = tokenizers(*QWEN3)
    context, trained = parts(tokenizer, example("2.", "Hm."), "train")
    assert context.endswith("<|im_start|>assistant\n")
    assert trained == "<think>\nHm.\n</think>\n\n2.<|im_end|>"
    assert parts(tokenizer, example("2.", "Hm."), "mask")[1].lstrip() == "2.<|im_end|>"
    assert "Hm." not in "".join(parts(tokenizer, example("2.", "Hm."), "drop"))


def test_masked_thoughts_are_masked_in_earlier_turns_too(tokenizers: Any) -> None:
    tokenizer = tokenizers(*QWEN3)
    asked = {"role": "assistant", "content": "", "reasoning_content": "I add.",
             "tool_calls": [CALL]}  # fmt: skip
    item = Example("x", (
        {"role": "user", "content": "1+1?"}, asked, {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two.", "reasoning_content": "It says 2."},
    ))  # fmt: skip
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    context, trained = parts(tokenizer, item, "mask")
    assert "I add." in context
    assert trained == f"{call}Two.<|im_end|>"
    _, trained = parts(tokenizer, item, "train")
    assert trained == (
        f"<think>\nI add.\n</think>\n\n{call}<think>\nIt says 2.\n</think>\n\nTwo.<|im_end|>"
    )


@pytest.mark.parametrize(
    ("files", "train_on", "number"),
    [(LLAMA_R1, "all", 2), (LLAMA_R1, "last", 1), (CHATML, "all", 1)],
)
def test_an_answer_that_the_template_changes_is_trained_in_an_example_of_its_own(
    tokenizers: Any, files: tuple[str, str], train_on: str, number: int
) -> None:
    earlier = (
        {"role": "user", "content": "0+1?"},
        {"role": "assistant", "content": "1."},
    )
    notes = Notes()
    tokenizer = tokenizers(*files)
    encoder = Encoder(tokenizer, max_length=4096, train_on=train_on)
    kept, encoded, problems = encode_each(encoder, [example("2.", None, *earlier)], notes)
    assert (len(kept), len(encoded), problems) == (number, number, [])
    trained = [tokenizer.decode([t for t in item.labels if t != IGNORED]) for item in encoded]
    if number == 2:
        assert trained == [f"\n</think>\n\n1.{EOS}", f"\n</think>\n\n2.{EOS}"]
        assert [note.count for note in notes] == [1]
        assert [len(item.messages) for item in kept] == [2, 4]
        assert kept[1].messages[1]["weight"] == 0
        assert len({item.id for item in kept}) == 2


def test_qwq_opens_thoughts_in_the_prompt_too(tokenizers: Any) -> None:
    context, trained = parts(tokenizers(*QWQ), example("2.", "Hm."), "train")
    assert context.endswith("<|im_start|>assistant\n<think>\n")
    assert trained == "Hm.\n</think>\n\n2.<|im_end|>"


def test_a_template_that_knows_no_thoughts_gets_them_in_front_of_the_answer(
    tokenizers: Any,
) -> None:
    tokenizer = tokenizers(*CHATML)
    _, trained = parts(tokenizer, example("2.", "Hm."), "train")
    assert trained == "<think>\nHm.\n</think>\n\n2.<|im_end|>"
    assert parts(tokenizer, example("2."), "train")[1] == "2.<|im_end|>"


@pytest.mark.parametrize(
    ("content", "thoughts", "answer"),
    [
        ("<think>\nHm.\n</think>\n\nTwo.", "Hm.", "Two."),
        ("Hm.\n</think>\n\nTwo.", "Hm.", "Two."),
        ("<think>\n\n</think>\n\nTwo.", "", "Two."),
        ("Two.", None, "Two."),
        ("Write <think>a</think> in HTML.", None, "Write <think>a</think> in HTML."),
    ],
)
def test_thoughts_are_found_in_the_text(content: str, thoughts: str | None, answer: str) -> None:
    split = split_thoughts(content)
    assert (split.thoughts, split.answer) == (thoughts, answer)
