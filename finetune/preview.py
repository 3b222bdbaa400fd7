"""What the model will see, before any model is loaded: examples, trained tokens, lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneserve.base import resolve_base
from tuneserve.errors import TuneserveError
from tuneserve.finetune.data.prepare import Prepared, prepare_examples
from tuneserve.finetune.examples import Example
from tuneserve.finetune.runtime.model import check_convertible, load_tokenizer
from tuneserve.finetune.tokens.encode import (
    TokenCounts,
    about_turns,
    encode_all,
    problems_with_ends,
    token_counts,
)
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded, Encoder
from tuneserve.finetune.tokens.epoch import build_pool
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
    """What an epoch draws and can't train, in a sentence; empty where there are problems."""

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
    encoder = Encoder.of(recipe, tokenizer)
    problems: list[str] = []
    encoded = {
        name: _encode(encoder, prepared, part, problems, skip_bad=recipe.data.skip_bad)
        for name, part in prepared.parts().items()
    }
    kept = encoded["train"]
    problems += problems_with_ends(encoder, [e for e, _ in kept], [item for _, item in kept])
    return Preview(
        prepared=prepared,
        counts={name: token_counts([e for _, e in part]) for name, part in encoded.items()},
        epoch="" if problems else _epoch(prepared, encoded, encoder, recipe),
        histogram=length_histogram([item.length_before_cut for _, item in encoded["train"]]),
        shown=[
            (example, pieces(tokenizer, encoder.special_ids, item))
            for example, item in encoded["train"][:examples]
        ],
        problems=problems,
    )


def _encode(
    encoder: Encoder,
    prepared: Prepared,
    part: list[Example],
    problems: list[str],
    *,
    skip_bad: bool,
) -> list[tuple[Example, Encoded]]:
    """A split with its tokens. What can't be trained on is a problem, or leaves the split as it
    does in training."""
    encoded: list[tuple[Example, Encoded]] = []
    found: list[str] = []
    for example in part:
        try:
            encoded.append((example, encoder.encode(example)))
        except TuneserveError as error:
            found.append(f"{example.where}: {error.message}")
    if skip_bad and encoded:
        prepared.skipped += len(found)
        part[:] = [example for example, _ in encoded]
    else:
        problems += found
    return encoded


def _epoch(
    prepared: Prepared,
    encoded: Mapping[str, Sequence[tuple[Example, Encoded]]],
    encoder: Encoder,
    recipe: Recipe,
) -> str:
    tokens = {name: [item for _, item in part] for name, part in encoded.items()}
    pool = build_pool(
        prepared, tokens["train"], tokens.get("replay", ()),
        lambda examples: encode_all(encoder, examples)[1], recipe.data, recipe.train.seed,
    )  # fmt: skip
    return pool.describe() + about_turns(token_counts(tokens["train"]))


def pieces(tokenizer: Any, special: frozenset[int], encoded: Encoded) -> list[Piece]:
    """The tokens' text, neighbours of one kind together, special tokens each for themselves."""
    found: list[Piece] = []
    run: list[int] = []
    state = (False, False)
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        now = (token in special, label != IGNORED)
        if run and (now != state or now[0]):
            found.append(_piece(tokenizer, run, *state))
            run = []
        state = now
        run.append(token)
    if run:
        found.append(_piece(tokenizer, run, *state))
    return found


def _piece(tokenizer: Any, ids: list[int], special: bool, trained: bool) -> Piece:
    kind = "special" if special else "trained" if trained else "context"
    return Piece(tokenizer.decode(ids), kind, trained)


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
