"""Reasoning models, with the templates and tokenizers that are really in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.examples import Example
from finetune.mask import IGNORED, Encoder
from tuneserve.base.gguf_file import GGUFFile
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.thoughts import split_thoughts

R1_MARKS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
LLAMA_R1 = ("ggml-vocab-llama-bpe.gguf", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja")
QWEN_R1 = ("ggml-vocab-qwen2.gguf", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja")
QWEN3 = ("ggml-vocab-qwen2.gguf", "Qwen-Qwen3-0.6B.jinja")
QWQ = ("ggml-vocab-qwen2.gguf", "Qwen-QwQ-32B.jinja")
CHATML = ("ggml-vocab-qwen2.gguf", "Qwen-Qwen2.5-7B-Instruct.jinja")
EOS = "<｜end▁of▁sentence｜>"


@pytest.fixture(scope="module")
def tokenizers(llama_cpp_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer of a real vocabulary with a real template, by their file names."""
    from transformers import AutoTokenizer

    made: dict[str, Any] = {}

    def get(vocabulary: str, template: str) -> Any:
        if vocabulary not in made:
            directory = tmp_path_factory.mktemp("vocabulary")
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
    assert split_thoughts(content) == (thoughts, answer)
