"""Held-out examples as token ids: the prompt as served, the reference answer as trained."""

from __future__ import annotations

from collections.abc import Sequence

from tuneserve.chat.prompt import EncodedExample, GGUFTokenizer, encode, template_of
from tuneserve.examples import Example
from tuneserve.llama import LlamaModel


def encode_examples(
    model: LlamaModel, examples: Sequence[Example], *, thoughts: str = "train"
) -> list[EncodedExample]:
    """Encode with the GGUF's own template and tokenizer; `thoughts` is [data]'s setting."""
    tokenizer, template = GGUFTokenizer(model), template_of(model)
    return [
        # Files of further tasks may have answers that no training has seen.
        encode(tokenizer, template, example, thoughts=thoughts, as_it_is=True)
        for example in examples
    ]
