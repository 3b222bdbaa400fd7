"""What the model will see, before any model is loaded: examples, trained tokens, lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneserve.base import resolve_base
from tuneserve.base.window import within_window
from tuneserve.chat.examples import Example
from tuneserve.errors import grouped
from tuneserve.finetune.data.kinds import Kind, KindMember, grouped_by_kind, kinds_of, typical
from tuneserve.finetune.data.notes import Note
from tuneserve.finetune.data.prepare import Prepared, prepare_examples
from tuneserve.finetune.runtime.model import load_tokenizer
from tuneserve.finetune.tokens.encoder import (
    Encoded,
    Encoder,
    TokenCounts,
    encode_parts,
    token_counts,
)
from tuneserve.finetune.tokens.epoch import build_training_set
from tuneserve.finetune.tokens.pieces import Piece, characters, joined
from tuneserve.model_files import check_config
from tuneserve.records import Record
from tuneserve.settings import Recipe

HISTOGRAM_ROWS = 12


class ShownPiece(Record):
    """A run of tokens of one kind, as finetune/tokens/pieces.py names them; `trained`: the loss
    counts them."""

    text: str
    kind: str
    trained: bool
    tokens: int


class ShownExample(Record):
    """A typical example as the model sees it: its kind, the part of the data that it is in, its
    place in the files, its id, and its tokens; `length_before_cut` are those before it is cut."""

    kind: str
    part: str
    where: str
    id: str
    tokens: int
    trained_tokens: int
    length_before_cut: int
    pieces: list[ShownPiece]


class PreviewFigures(Record):
    """The counts by part of the data, the kinds of examples, what would stop the training, what was
    changed (`notes`) and what was left out, and the typical examples that are shown. `refused` says
    why records are `unusable`, `near` which examples are nearly the same as held-out ones."""

    counts: dict[str, TokenCounts]
    kinds: list[Kind]
    problems: list[str]
    notes: list[Note]
    duplicates: int
    near_duplicates: int
    unusable: int
    refused: list[str]
    near: list[str]
    shown: list[ShownExample]


@dataclass(frozen=True)
class Shown:
    """A typical example of a kind, its tokens as text in the smallest pieces of whole characters,
    and how many of them there are before the example is cut."""

    kind: Kind
    part: str
    example: Example
    pieces: list[Piece]
    length_before_cut: int

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def trained_tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces if piece.trained)

    def as_record(self) -> ShownExample:
        return ShownExample(
            kind=self.kind.name,
            part=self.part,
            where=self.example.where,
            id=self.example.id,
            tokens=self.tokens,
            trained_tokens=self.trained_tokens,
            length_before_cut=self.length_before_cut,
            pieces=[
                ShownPiece(
                    text=piece.text, kind=piece.kind, trained=piece.trained, tokens=piece.tokens
                )
                for piece in joined(self.pieces)
            ],
        )


@dataclass
class Preview:
    """The data of a recipe as training will see it; `problems` would stop the training."""

    prepared: Prepared
    counts: dict[str, TokenCounts]
    kinds: list[Kind]
    histogram: list[tuple[int, int, int]]
    shown: list[Shown]
    problems: list[str]
    epoch: str
    """A sentence: what an epoch visits. Empty where there are problems."""

    def figures(self) -> PreviewFigures:
        split = self.prepared.split
        return PreviewFigures(
            counts=self.counts,
            kinds=self.kinds,
            problems=self.problems,
            notes=list(self.prepared.notes),
            duplicates=split.duplicates + split.straddling,
            near_duplicates=len(split.near),
            unusable=self.prepared.skipped,
            refused=grouped(self.prepared.refused),
            near=[near.describe() for near in split.near],
            shown=[shown.as_record() for shown in self.shown],
        )


def preview(recipe: Recipe, *, examples: int = 6) -> Preview:
    """Read, split and encode the recipe's data; render a typical example of each of the `examples`
    most frequent kinds.

    Loads the tokenizer and no model. Raises UsageError for data that can't be read; examples
    that can't be trained on are collected in `problems`.
    """
    return preview_prepared(recipe, prepare_examples(recipe.data), examples=examples)


def preview_prepared(recipe: Recipe, prepared: Prepared, *, examples: int) -> Preview:
    """`preview` of data that is read and split already."""
    base = resolve_base(recipe.model.base)
    recipe = within_window(recipe, check_config(base.path / "config.json"))
    tokenizer = load_tokenizer(base.path, recipe.model)
    encoder = Encoder.of(recipe, tokenizer, prepared.split.train)
    encoded, problems = encode_parts(encoder, prepared, skip_bad=recipe.data.skip_bad)
    counts = {name: token_counts(part) for name, part in encoded.items()}
    epoch = ""
    if not problems:
        training_set = build_training_set(prepared, encoded, encoder.encode_all, recipe)
        epoch = training_set.describe()
    groups = grouped_by_kind(
        [
            KindMember(part, place, example, cut=item.truncated)
            for part, found in prepared.parts().items()
            for place, (example, item) in enumerate(zip(found, encoded[part], strict=True))
        ]
    )
    kinds = kinds_of(groups)
    return Preview(
        prepared=prepared,
        counts=counts,
        kinds=kinds,
        epoch=epoch,
        histogram=length_histogram([item.length_before_cut for item in encoded["train"]]),
        shown=[
            _shown(tokenizer, encoder.special_ids, kind, groups[kind.name], encoded)
            for kind in kinds[:examples]
        ],
        problems=problems,
    )


def _shown(
    tokenizer: Any,
    special: frozenset[int],
    kind: Kind,
    members: Sequence[KindMember],
    encoded: Mapping[str, Sequence[Encoded]],
) -> Shown:
    lengths = [len(encoded[member.part][member.place].input_ids) for member in members]
    chosen = typical(members, lengths)
    item = encoded[chosen.part][chosen.place]
    return Shown(
        kind=kind,
        part=chosen.part,
        example=chosen.example,
        pieces=list(characters(tokenizer, special, item)),
        length_before_cut=item.length_before_cut,
    )


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
