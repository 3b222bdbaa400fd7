"""What the model will see, before any model is loaded: examples, trained tokens, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tuneserve.base import resolve_base
from tuneserve.chat.examples import Example
from tuneserve.finetune.data.prepare import Prepared, prepare_examples
from tuneserve.finetune.runtime.model import check_convertible, load_tokenizer
from tuneserve.finetune.tokens.encoder import (
    IGNORED,
    Encoded,
    Encoder,
    TokenCounts,
    encode_parts,
    token_counts,
)
from tuneserve.finetune.tokens.epoch import build_training_set
from tuneserve.records import Record
from tuneserve.settings import Recipe

HISTOGRAM_ROWS = 12


@dataclass(frozen=True)
class Piece:
    """A run of tokens of one kind: 'context', 'trained' or 'special' (a special token; `trained`
    says which of the two it is as well)."""

    text: str
    kind: str
    trained: bool


class PreviewFigures(Record):
    """The counts by part of the data, what would stop the training, and what was left out."""

    counts: dict[str, TokenCounts]
    problems: list[str]
    duplicates: int
    near_duplicates: int
    unusable: int


@dataclass
class Preview:
    """The data of a recipe as training will see it; `problems` would stop the training."""

    prepared: Prepared
    counts: dict[str, TokenCounts]
    histogram: list[tuple[int, int, int]]
    shown: list[tuple[Example, list[Piece]]]
    problems: list[str]
    epoch: str
    """Sentences: what an epoch visits, and which earlier answers the template leaves untrained.
    Empty where there are problems."""

    def figures(self) -> PreviewFigures:
        split = self.prepared.split
        return PreviewFigures(
            counts=self.counts,
            problems=self.problems,
            duplicates=split.duplicates + split.straddling,
            near_duplicates=len(split.near),
            unusable=self.prepared.skipped,
        )


def preview(recipe: Recipe, *, examples: int = 3) -> Preview:
    """Read, split and encode the recipe's data; render its first `examples` training examples.

    Loads the tokenizer and no model. Raises UsageError for data that can't be read; examples
    that can't be trained on are collected in `problems`.
    """
    prepared = prepare_examples(recipe.data)
    base = resolve_base(recipe.model.base)
    tokenizer = load_tokenizer(base.path, recipe.model)
    check_convertible(tokenizer, base.path)
    encoder = Encoder.of(recipe, tokenizer, prepared)
    encoded, problems = encode_parts(encoder, prepared, skip_bad=recipe.data.skip_bad)
    train = encoded["train"]
    counts = {name: token_counts(part) for name, part in encoded.items()}
    epoch = ""
    if not problems:
        training_set = build_training_set(prepared, encoded, encoder.encode_all, recipe)
        epoch = training_set.describe()
    return Preview(
        prepared=prepared,
        counts=counts,
        epoch=epoch,
        histogram=length_histogram([item.length_before_cut for item in train]),
        shown=[
            (example, pieces(tokenizer, encoder.special_ids, item))
            for example, item in list(zip(prepared.split.train, train, strict=True))[:examples]
        ],
        problems=problems,
    )


def pieces(tokenizer: Any, special: frozenset[int], encoded: Encoded) -> list[Piece]:
    """The tokens' text in pieces of one kind; each special token is a piece of its own."""

    def run_of(place: int) -> tuple[bool, bool, int]:
        is_special = encoded.input_ids[place] in special
        return is_special, encoded.labels[place] != IGNORED, place if is_special else 0

    found = []
    for (is_special, trained, _), places in groupby(range(len(encoded.input_ids)), key=run_of):
        kind = "special" if is_special else "trained" if trained else "context"
        text = tokenizer.decode([encoded.input_ids[place] for place in places])
        found.append(Piece(text, kind, trained))
    return found


def length_histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(from, to, examples) in steps of equal width, a power of two; `to` is not included."""
    if not lengths:
        return []
    width = 1
    while max(lengths) // width >= HISTOGRAM_ROWS:
        width *= 2
    first, last = min(lengths) // width, max(lengths) // width
    counts = dict.fromkeys(range(first, last + 1), 0)
    for length in lengths:
        counts[length // width] += 1
    return [(step * width, (step + 1) * width, count) for step, count in counts.items()]
