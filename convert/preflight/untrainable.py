"""Examples that a training would refuse, told by the process that has the tokenizer first: training
itself encodes them once Unsloth is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneserve.chat.examples import Example
from tuneserve.chat.template import TemplateLimitError
from tuneserve.errors import TuneserveError
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.tokens.encoder import Encoder, encode_each
from tuneserve.settings import Recipe


class UntrainableError(TuneserveError):
    """`problems` ('place: reason') are the examples that can't be trained on."""


def check_trainable(recipe: Recipe, tokenizer: Any, examples: Sequence[Example]) -> None:
    """Raise UntrainableError for examples that a training refuses; one that leaves them out is told
    nothing."""
    if recipe.data.skip_bad:
        return
    encoder = Encoder.of(recipe, tokenizer, examples)
    try:
        _, _, problems = encode_each(encoder, examples, Notes(), expand=False)
    except TemplateLimitError:  # of which the training says more
        return
    if problems:
        raise UntrainableError("examples can't be trained on", problems=problems)
