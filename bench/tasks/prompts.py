"""Held-out examples as token ids: the prompt as served, the reference answer as trained."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tuneserve.bench.tasks.examples import Example
from tuneserve.llama import LlamaModel
from tuneserve.prompt import encode_text, template_of
from tuneserve.template import ChatTemplate
from tuneserve.thoughts import KEY, OPEN, Completion, complete


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of a prompt and of its reference answer, thoughts and end token included.

    The first `unscored` ids of the answer are thoughts that training did not teach.
    `opens_thought`: the template ends the prompt inside a thought, so answers begin in one.
    """

    example: Example
    prompt: list[int]
    answer: list[int]
    opens_thought: bool
    unscored: int = 0


def encode_examples(
    model: LlamaModel, examples: list[Example], *, thoughts: str = "train"
) -> list[EncodedExample]:
    """Encode with the GGUF's own template and tokenizer; `thoughts` is [data]'s setting."""
    template = template_of(model)
    return [_encode(model, template, example, thoughts) for example in examples]


def _encode(
    model: LlamaModel, template: ChatTemplate, example: Example, thoughts: str
) -> EncodedExample:
    given = None if thoughts == "drop" else example.thoughts
    variables: dict[str, Any] = {"tools": list(example.tools)} if example.tools else {}
    if given:
        variables["enable_thinking"] = True  # as in training
    prompt = template.render(example.prompt, add_generation_prompt=True, **variables)
    answer: dict[str, Any] = {"role": "assistant", "content": example.reference}
    if given:
        answer[KEY] = given
    full = template.render([*example.prompt, answer], **variables)
    completion = complete(prompt, full, example.reference, given)
    if completion is None:
        completion = Completion(example.reference, 0)
    # Prompt and answer are tokenized apart, so that the prompt's ids are those of generation.
    ids = model.tokenize(completion.text, parse_special=True)
    ends = [place for place, token in enumerate(ids) if model.is_end(token)]
    masked = completion.text[: completion.thoughts_end] if thoughts == "mask" else ""
    return EncodedExample(
        example=example,
        prompt=encode_text(model, prompt),
        answer=ids[: ends[-1] + 1] if ends else [*ids, model.eos],
        opens_thought=prompt.rstrip().endswith(OPEN),
        unscored=_tokens_within(model, ids, len(masked.encode())),
    )


def _tokens_within(model: LlamaModel, ids: list[int], size: int) -> int:
    """How many of the first tokens end within `size` bytes of text."""
    ends = accumulate(len(model.token_bytes(token)) for token in ids)
    return sum(end <= size for end in ends) if size else 0
