"""Lengths of a recipe's examples before a training: counted with the base's tokenizer, or estimated
without it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from tuneserve.base import BaseConfig
from tuneserve.chat.examples import Example
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.extras import missing_packages
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.runtime.model import load_tokenizer
from tuneserve.finetune.tokens.encoder import Encoded, Encoder, encode_parts
from tuneserve.finetune.tokens.epoch import Encode
from tuneserve.finetune.tokens.estimated import estimate_all, estimate_parts
from tuneserve.settings import Recipe

COUNTED, ESTIMATED = "counted", "estimated"
_NO_LIMIT = 1 << 20  # the largest max_seq_length


def encode_examples(
    recipe: Recipe, base: BaseConfig, prepared: Prepared
) -> tuple[str, dict[str, list[Encoded]], Encode]:
    """COUNTED or ESTIMATED, the parts of the data as tokens (estimated ones without ids), and what
    encodes further examples so. `prepared` loses what can't be trained on.

    Raises UsageError for an example that a training refuses.
    """
    if base.tokenizer is None or missing_packages("train"):
        return _estimated(recipe, prepared)
    tokenizer = load_tokenizer(base.tokenizer, recipe.model)
    encoder = Encoder.of(recipe, tokenizer, prepared.split.train)
    encoded, problems = encode_parts(encoder, prepared, skip_bad=recipe.data.skip_bad)
    if problems:
        raise UsageError(problems[0])
    return COUNTED, encoded, encoder.encode_all


def longest_example(recipe: Recipe, base: BaseConfig, prepared: Prepared) -> tuple[str, int]:
    """COUNTED or ESTIMATED, and the tokens of the longest example, however long a training lets it
    be. Estimated too where an example can't be encoded, which is for the training to tell."""
    model = recipe.model.model_copy(update={"max_seq_length": _NO_LIMIT})
    whole = recipe.model_copy(update={"model": model})
    try:
        lengths, encoded, _ = encode_examples(whole, base, copy.deepcopy(prepared))
    except TuneserveError:
        lengths, encoded, _ = _estimated(whole, copy.deepcopy(prepared))
    return lengths, max(item.length_before_cut for part in encoded.values() for item in part)


def _estimated(recipe: Recipe, prepared: Prepared) -> tuple[str, dict[str, list[Encoded]], Encode]:
    longest = recipe.model.max_seq_length

    def encode(examples: Sequence[Example]) -> list[Encoded]:
        return estimate_all(examples, max_length=longest)

    return ESTIMATED, estimate_parts(prepared, max_length=longest), encode
