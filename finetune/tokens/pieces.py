"""Tokens as text that a person reads: what is trained, what is only read, special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tuneserve.finetune.tokens.encoder import IGNORED, Encoded
from tuneserve.visible import visible

# What decoders write for bytes that are no whole character.
_INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class Piece:
    """The text of `tokens` tokens of one kind: 'context', 'trained', 'special' (a special token;
    `trained` says which of the two it is as well), or 'left out', which says how many there are."""

    text: str
    kind: str
    trained: bool
    tokens: int = 1


def pieces(tokenizer: Any, special: frozenset[int], encoded: Encoded) -> list[Piece]:
    """An example's text in runs of one kind; each special token is a piece of its own.
    `tokenizer` is one of transformers'."""
    return joined(characters(tokenizer, special, encoded))


def characters(tokenizer: Any, special: frozenset[int], encoded: Encoded) -> Iterator[Piece]:
    """The tokens' text in the smallest pieces that hold whole characters: a token, or several where
    one character is spread over them."""

    def text_of(tokens: list[int]) -> str:
        text: str = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text

    # Some decoders drop a space at the start of what they are given: give the piece before, too.
    before: list[int] = []
    pending: list[int] = []
    trained = False

    def piece(kind: str) -> Piece:
        nonlocal before, pending, trained
        made = Piece(text_of(before + pending)[len(text_of(before)) :], kind, trained, len(pending))
        before, pending, trained = pending, [], False
        return made

    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        learned = label != IGNORED
        if token in special:
            if pending:
                yield piece("trained" if trained else "context")
            pending, trained = [token], learned
            yield piece("special")
            continue
        # A character that is learned in part is shown as learned.
        pending, trained = [*pending, token], trained or learned
        if not text_of(before + pending).endswith(_INCOMPLETE):
            yield piece("trained" if trained else "context")
    if pending:
        yield piece("trained" if trained else "context")


def joined(found: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one kind as one piece, special tokens apart."""
    runs = []
    for (kind, trained), group in groupby(found, key=lambda piece: (piece.kind, piece.trained)):
        if kind == "special":
            runs += list(group)
            continue
        members = list(group)
        text = "".join(piece.text for piece in members)
        runs.append(Piece(text, kind, trained, sum(piece.tokens for piece in members)))
    return runs


def shortened(found: Sequence[Piece], *, rows: int, width: int) -> list[Piece]:
    """The pieces as they fit on about `rows` lines of `width` cells: where they don't, those in the
    middle are replaced by one that says how many tokens are left out."""
    if _fitting(found, rows, width) == len(found):
        return list(found)
    # The answer stands at the end, and is what is looked for.
    head = _fitting(found, rows // 2, width)
    tail = _fitting(found[head:][::-1], rows - rows // 2, width)
    end = len(found) - tail
    middle = found[head:end]
    tokens = sum(piece.tokens for piece in middle)
    learned = sum(piece.tokens for piece in middle if piece.trained)
    text = f"… {tokens:,} tokens left out here, {learned:,} of them trained …"
    return [*found[:head], Piece(text, "left out", trained=False, tokens=tokens), *found[end:]]


def _fitting(found: Sequence[Piece], rows: int, width: int) -> int:
    """How many of the pieces, from the first on, fit on `rows` lines."""
    from rich.cells import cell_len

    row = column = 0
    for number, piece in enumerate(found):
        for place, line in enumerate(piece.text.split("\n")):
            if place:
                row, column = row + 1, 0
            column += cell_len(visible(line, joiners=False))
            row, column = row + column // width, column % width
        if row >= rows:
            return number
    return len(found)
