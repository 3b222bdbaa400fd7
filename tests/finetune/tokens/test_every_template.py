"""Generated conversations through the templates that people tune: what the record asks to train is
trained, each answer once with one end token, or the record is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import ModulePaths
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.chat.examples import Example
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.tokens.encoder import IGNORED, Encoder, encode_each
from tuneserve.gguf.reader import GGUFFile

# The template's file, and the end of a text in its vocabulary.
TEMPLATES = {
    "HuggingFaceTB-SmolLM3-3B": "<|im_end|>",
    "meta-llama-Llama-3.1-8B-Instruct": "<|eot_id|>",
    "meta-llama-Llama-3.2-3B-Instruct": "<|eot_id|>",
    "meta-llama-Llama-3.3-70B-Instruct": "<|eot_id|>",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "<|im_end|>",
    "Qwen-Qwen2.5-7B-Instruct": "<|im_end|>",
    "Qwen-Qwen3-0.6B": "<|im_end|>",
    "Qwen-QwQ-32B": "<|im_end|>",
    "mistralai-Mistral-Nemo-Instruct-2407": "</s>",
    "Mistral-Small-3.2-24B-Instruct-2506": "</s>",
    "unsloth-mistral-Devstral-Small-2507": "</s>",
    "google-gemma-2-2b-it": "<end_of_turn>",
    "google-gemma-4-31B-it": "<turn|>",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "<｜end▁of▁sentence｜>",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "<｜end▁of▁sentence｜>",
    "microsoft-Phi-3.5-mini-instruct": "<|endoftext|>",
    "ibm-granite-granite-3.3-2B-Instruct": "<|end_of_text|>",
    "ibm-granite-granite-4.0": "<|end_of_text|>",
    "openai-gpt-oss-120b": "<|return|>",
    "LFM2-8B-A1B": "<|im_end|>",
}
_CONTROL = re.compile(
    r"<\|[\w ]+\|>|<｜[^｜']+｜>|\[/?[A-Z_]{3,}\]|<(?:start|end)_of_turn>|<\|?turn\|?>"
)
WORDS = st.sampled_from(
    ["yes", "no", "  Both \n", "x = 1\n    y", "Straße", "日本", "नमस्ते", "</b>", '{"a": 1}', "It's"]
)


@pytest.fixture(scope="module")
def encoders(llama_cpp_source: Path, module_paths: ModulePaths) -> Any:
    """An encoder of a real vocabulary with a real template and its special tokens, by name."""
    from transformers import AutoTokenizer

    directory = module_paths.mktemp("vocabulary")
    write_tokenizer(GGUFFile(llama_cpp_source / "models" / "ggml-vocab-gpt-2.gguf"), directory)

    @cache
    def tokenizer_of(name: str) -> Any:
        path = llama_cpp_source / "models" / "templates" / f"{name}.jinja"
        tokenizer = AutoTokenizer.from_pretrained(directory)
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        control = sorted({*_CONTROL.findall(tokenizer.chat_template), TEMPLATES[name]})
        tokenizer.add_special_tokens({"additional_special_tokens": control})
        tokenizer.bos_token, tokenizer.eos_token = None, TEMPLATES[name]
        return tokenizer

    @cache
    def get(name: str, thoughts: str) -> Encoder:
        return Encoder(tokenizer_of(name), max_length=1 << 16, thoughts=thoughts)

    return get


@st.composite
def conversations(draw: st.DrawFn) -> Example:
    numbers = iter(range(10_000))

    def text() -> str:
        return f"w{next(numbers)}{draw(WORDS)}"

    thinks = draw(st.booleans())
    calls = draw(st.booleans())
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": text()})

    def answer(*, calling: bool = False) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text()}
        if thinks and draw(st.booleans()):
            message["reasoning_content"] = f"t{next(numbers)}{draw(WORDS)}".strip()
        if draw(st.integers(0, 5)) == 0:
            message["weight"] = 0
        if calling:
            message["content"] = draw(st.sampled_from(["", message["content"]]))
            several = draw(st.integers(1, 2))
            message["tool_calls"] = [
                {
                    "id": f"call_{next(numbers)}",
                    "type": "function",
                    "function": {"name": "look_up", "arguments": {"key": text()}},
                }
                for _ in range(several)
            ]
        return message

    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": text()})
        if calls and draw(st.booleans()):
            called = answer(calling=True)
            messages.append(called)
            messages += [
                {"role": "tool", "content": text(), "tool_call_id": call["id"]}
                for call in called["tool_calls"]
            ]
        messages.append(answer())
    if calls and draw(st.booleans()):
        messages += [{"role": "user", "content": text()}, answer(calling=True)]
    messages[-1].pop("weight", None)
    parameters = {"type": "object", "properties": {"key": {"type": "string"}}}
    function = {"name": "look_up", "description": "Look it up", "parameters": parameters}
    tools = ({"type": "function", "function": function},) if calls else None
    return Example("x", tuple(messages), where="x.jsonl:1", tools=tools)


def wanted(example: Example, thoughts: str) -> Counter[str]:
    """The numbered words of what is to be trained."""
    found: Counter[str] = Counter()
    for message in example.messages:
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        found.update(numbered(message["content"]))
        for call in message.get("tool_calls", ()):
            found.update(numbered(call["function"]["arguments"]["key"]))
        if thoughts == "train":
            found.update(numbered(message.get("reasoning_content", "")))
    return found


def numbered(text: str) -> list[str]:
    return re.findall(r"[wt]\d+", text)


def trained(encoder: Encoder, encoded: Any) -> list[str]:
    """The texts that are trained, one for each end token."""
    texts, ids = [], []
    for item in encoded:
        for label in item.labels:
            if label != IGNORED:
                ids.append(label)
                if encoder._fast.is_end(label):
                    texts.append(encoder.tokenizer.decode(ids))
                    ids = []
        assert not ids, "a trained answer has no end"
    return texts


@pytest.mark.parametrize("thoughts", ["train", "mask", "drop"])
@settings(
    max_examples=700,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(sorted(TEMPLATES)), example=conversations())
def test_each_answer_is_trained_once_with_one_end_or_the_record_is_refused(
    encoders: Any, thoughts: str, name: str, example: Example
) -> None:
    encoder = encoders(name, thoughts)
    kept, encoded, problems = encode_each(encoder, [example], Notes())
    if problems:
        assert not kept
        assert problems[0].startswith("x.jsonl:1: ")
        return
    texts = trained(encoder, encoded)
    answers = [m for m in example.messages if m["role"] == "assistant" and m.get("weight") != 0]
    assert Counter(word for text in texts for word in numbered(text)) == wanted(example, thoughts)
    assert len(texts) == len(answers)
    assert len({item.id for item in kept}) == len(kept)
    joined = "".join(texts)
    for message in answers:
        assert message["content"].strip() in joined
        for call in message.get("tool_calls", ()):
            value = call["function"]["arguments"]["key"]
            assert value in joined or json.dumps(value, ensure_ascii=False)[1:-1] in joined
