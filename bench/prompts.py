"""Held-out examples as token ids: the prompt as served, the reference answer as trained."""

from __future__ import annotations

from dataclasses import dataclass

from bench.examples import Example
from bench.scoring import THOUGHT_START
from tuneserve.llama import LlamaModel
from tuneserve.prompt import encode_text, template_of
from tuneserve.template import ChatTemplate


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of a prompt and of its reference answer, end token included.

    `opens_thought`: the template ends the prompt inside a thought, so answers begin in one.
    """

    example: Example
    prompt: list[int]
    answer: list[int]
    opens_thought: bool


def encode_examples(model: LlamaModel, examples: list[Example]) -> list[EncodedExample]:
    """Encode with the GGUF's own template and tokenizer."""
    template = template_of(model)
    return [_encode(model, template, example) for example in examples]


def _encode(model: LlamaModel, template: ChatTemplate, example: Example) -> EncodedExample:
    prompt = template.render(example.prompt, add_generation_prompt=True)
    # Prompt and answer are tokenized apart, so that the prompt's ids are those of generation.
    answer = model.tokenize(_completion(template, prompt, example), parse_special=True)
    ends = [place for place, token in enumerate(answer) if model.is_end(token)]
    answer = answer[: ends[-1] + 1] if ends else [*answer, model.eos]
    return EncodedExample(
        example=example,
        prompt=encode_text(model, prompt),
        answer=answer,
        opens_thought=prompt.rstrip().endswith(THOUGHT_START),
    )


def _completion(template: ChatTemplate, prompt: str, example: Example) -> str:
    """What the template writes after the prompt for the reference answer.

    Templates that rewrite a finished answer (R1's drop its thoughts) don't continue their own
    prompt; there it is the reference as given and the end token is added by the caller.
    """
    answered = [*example.prompt, {"role": "assistant", "content": example.reference}]
    whole = template.render(answered)
    return whole[len(prompt) :] if whole.startswith(prompt) else example.reference
