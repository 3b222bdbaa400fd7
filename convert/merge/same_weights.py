"""Are the weights that an adapter is merged into those that it was trained on, in other precision?

A config.json is the same for a model and for what was tuned from it. Weights tell them apart where
the training's copy is there: of 4-bit weights, by whether the other's values round to what is
stored; of others, by their distance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuneserve.arrays import Floats, Ids
from tuneserve.console import percent, progress
from tuneserve.convert.merge.applied import EMBEDDING, HEAD
from tuneserve.convert.merge.four_bit import FourBitTensor, ReadableTensor
from tuneserve.convert.slabs import made_in_order, row_spans
from tuneserve.errors import UsageError
from tuneserve.files import read_json

# The share of a tensor's values, or of one row's, that may not round to what is stored (see
# FourBitTensor.compared): of the same model it is nearly nothing.
_MISPLACED, _MISPLACED_ROW = 0.01, 0.1
# Relative distance of two copies of a tensor: bfloat16 rounds by up to 0.004; what a quantized file
# holds is some tenths away, an unrelated tensor 1.4. Of a row of such a file: so many times the
# tensor's median.
_DISTANCE, _DISTANCE_OF_FILE, _TIMES = 0.01, 0.9, 5.0
_NAMED = 5
# A row of so much of the usual row's size is empty: of a token that training has never seen.
_EMPTY, _USUAL_OF = 0.01, 4096
_NONE: Floats = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a vocabulary: how many rows of embedding and output belong to one, and the ids
    of those that were added to it and neither chat template nor configuration names, as
    placeholders may be that nobody uses."""

    rows: int
    added: Ids

    @classmethod
    def of(cls, directory: Path) -> Tokens:
        """Of the tokenizer.json in `directory`, and of the files beside it."""
        content = read_json(directory / "tokenizer.json")
        texts = content["model"].get("vocab") or []
        entries = content.get("added_tokens") or []
        own = texts.values() if isinstance(texts, Mapping) else range(len(texts))
        used = _used_texts(directory)
        added = [int(one["id"]) for one in entries if one["content"] not in used]
        ids = (int(one["id"]) for one in entries)
        return cls(
            1 + max(itertools.chain(own, ids), default=-1), np.asarray(added, dtype=np.int64)
        )


def _used_texts(directory: Path) -> str:
    """The chat template, and tokens that tokenizer_config.json has texts begin and end with."""
    template, path = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    names = ("bos_token", "eos_token", "unk_token", "chat_template")  # nothing reads what pads
    parts = [config.get(name) for name in names]
    # A token is its text, or an object that holds it; a template may be a list of several.
    texts = [str(part.get("content") if isinstance(part, Mapping) else part) for part in parts]
    if template.is_file():
        texts.append(template.read_text("utf-8"))
    return "\n".join(texts)


# Of a 4-bit copy (NF4 and FP4, normal and t weights, SmolLM2): what its blocks' largest values are
# by those stored, over a tensor and over a row, the latter by the root of its blocks; how far a
# column's values may be from going with those stored, 1; and how far a row is away, as a share of
# its size and of the median's.
_SCALED, _SCALED_ROW, _SCALED_BLOCK, _ROW_BLOCKS = 0.02, 0.05, 0.4, 8
_COLUMN, _FAR, _FAR_TIMES = 1.0, 0.2, 2.0


class _Span(NamedTuple):
    """What is compared of a span of a pair's rows: how far each is `apart`. Of 4-bit copies also
    each row's `distance`, its largest values `own` and as `stored`, and by column the products of
    the values `with_stored` and those of the stored ones with themselves, `squares`."""

    apart: Floats
    distance: Floats = _NONE
    own: Floats = _NONE
    stored: Floats = _NONE
    with_stored: Floats = _NONE
    squares: Floats = _NONE


@dataclass(frozen=True)
class _Pair:
    """One tensor of both. `stored`: the training's; `of_file`: from a GGUF, which may have rounded
    it."""

    name: str
    stored: ReadableTensor
    other: ReadableTensor
    of_file: bool
    tokens: Tokens

    @cached_property
    def _empty(self) -> float:
        """The size up to which a row is empty."""
        sizes = _sizes(self.stored.rows(0, min(_USUAL_OF, self.shape[0])))
        return _EMPTY * float(np.median(sizes))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows that both have: a base may have been given further tokens."""
        rows = min(self.stored.shape[0], self.other.shape[0])
        return rows, *self.stored.shape[1:]

    def compared(self, span: tuple[int, int]) -> _Span:
        """How far each row of the span is from the training's: a share that rounds otherwise for
        4 bits, else the relative distance."""
        values = self.other.rows(*span)
        if self.name in (EMBEDDING, HEAD):
            return _Span(self._apart_by_token(values, span))
        if not isinstance(self.stored, FourBitTensor):
            return _Span(self._apart(values, span))
        apart, rounded = self.stored.compared(values, span[0])
        size = np.maximum(_sizes(values), np.float32(np.finfo(np.float32).tiny))
        distance: Floats = (_sizes(values - rounded) / size).astype(np.float32)
        own, stored = self.stored.own_and_stored(values, span[0])
        return _Span(apart, distance, own, stored, (values * rounded).sum(0), (rounded**2).sum(0))

    def _apart(self, values: Floats, span: tuple[int, int], least: float = 0.0) -> Floats:
        """`least`: the size that a row is taken to have at least."""
        if isinstance(self.stored, FourBitTensor):
            return self.stored.compared(values, span[0])[0]
        difference = _sizes(values - self.stored.rows(*span))
        size = np.maximum(_sizes(values), max(least, float(np.finfo(np.float32).tiny)))
        return np.where(difference == 0, np.float32(0), difference / size)

    def _apart_by_token(self, values: Floats, span: tuple[int, int]) -> Floats:
        """Copies fill the rows of tokens that nobody uses each in its own way: those that belong to
        no token, and those of added tokens that one of both has left empty."""
        apart = self._apart(values, span, self._empty)
        smaller = np.minimum(_sizes(values), _sizes(self.stored.rows(*span)))
        numbers = np.arange(*span)
        placeholder = np.isin(numbers, self.tokens.added) & (smaller <= self._empty)
        return np.where((numbers >= self.tokens.rows) | placeholder, np.float32(0), apart)

    def problem(self, spans: Sequence[_Span]) -> str:
        """What is wrong with the tensor, by its spans in their order; '' for nothing."""
        found = self._problem_of_rows(np.concatenate([span.apart for span in spans]))
        if found or not isinstance(self.stored, FourBitTensor):
            return found
        found = self._problem_of_scale(spans, self.shape[1] // self.stored.block)
        if found:
            return found
        square = np.sum([span.squares for span in spans], axis=0)
        product = np.sum([span.with_stored for span in spans], axis=0)
        together = np.divide(product, square, out=np.ones_like(square), where=square > 0)
        worst = int(np.abs(together - 1).argmax())
        if abs(together[worst] - 1) > _COLUMN:
            return f"{self.name}, column {worst}: {together[worst]:.2f} times what is stored"
        distance = np.concatenate([span.distance for span in spans])
        worst = int(distance.argmax())
        if distance[worst] > max(_FAR, _FAR_TIMES * float(np.median(distance))):
            return f"{self.name}, row {worst}: {percent(distance[worst], 0)} of its size away"
        return ""

    def _problem_of_scale(self, spans: Sequence[_Span], blocks: int) -> str:
        own, stored = (
            np.concatenate([getattr(span, name) for span in spans]) for name in ("own", "stored")
        )
        if not stored.sum():
            return ""
        whole = float(own.sum() / stored.sum())
        if abs(whole - 1) > _SCALED:
            return f"{self.name}: {whole:.3f} times as large as what is stored"
        rows = np.divide(own, stored, out=np.ones_like(own), where=stored > 0)
        worst = int(np.abs(rows - 1).argmax())
        limit = max(_SCALED_ROW, _SCALED_BLOCK / math.sqrt(max(blocks, 1)))
        if blocks < _ROW_BLOCKS or abs(rows[worst] - 1) <= limit:
            return ""
        return f"{self.name}, row {worst}: {rows[worst]:.2f} times as large as what is stored"

    def _problem_of_rows(self, rows: Floats) -> str:
        if isinstance(self.stored, FourBitTensor):
            whole, limit, row_limit = float(rows.mean()), _MISPLACED, _MISPLACED_ROW
            what = "of its values round to others than those stored"
        else:
            whole, what = float(np.median(rows)), "of its size away"
            limit = _DISTANCE_OF_FILE if self.of_file else _DISTANCE
            row_limit = min(limit, max(_DISTANCE, _TIMES * whole))
        if whole > limit:
            return f"{self.name}: {percent(whole)} {what}"
        worst = int(rows.argmax())
        if rows[worst] <= row_limit:
            return ""
        count = int((rows > row_limit).sum())
        told = f"{percent(rows[worst], 0)} {what} ({count} of {len(rows)} rows)"
        return f"{self.name}, row {worst}: {told}"


def _sizes(values: Floats) -> Floats:
    """Of each row, or of the vector."""
    sizes: Floats = np.linalg.norm(np.atleast_2d(values), axis=-1)
    return sizes


def check_same_weights(
    trained: Mapping[str, ReadableTensor],
    other: Mapping[str, ReadableTensor],
    where: Path,
    threads: int,
    *,
    tokens: Tokens,
    of_file: bool = False,
) -> None:
    """Raise UsageError naming the tensors of `other` (read from the directory `where`) that are not
    those of `trained` in other precision. Both by the text model's names; vectors and matrices
    that both have are compared, all of their rows; of embedding and output those of the `tokens`.
    `of_file`: the weights of `trained` were read from a GGUF."""
    pairs = [
        _Pair(name, stored, other[name], of_file, tokens)
        for name, stored in trained.items()
        if name in other
        and len(stored.shape) == len(other[name].shape) <= 2
        and stored.shape[1:] == other[name].shape[1:]
    ]
    if problems := _problems(pairs, threads):
        more = len(problems) - _NAMED
        raise UsageError(
            "is another model than the base that was trained on: its weights differ by more than "
            "precision",
            where=f"merge_base = {where}",
            problems=[*problems[:_NAMED], *([f"and {more} tensors more"] if more > 0 else [])],
            hint="Name the 16-bit checkpoint of the model that was trained on.",
        )


def _problems(pairs: Sequence[_Pair], threads: int) -> list[str]:
    slabs = [(pair, span) for pair in pairs for span in row_spans(pair.shape)]
    spans: dict[str, list[_Span]] = {pair.name: [] for pair in pairs}
    with (
        ThreadPoolExecutor(threads) as pool,
        progress(
            "merge_base: compared with the base of the training", len(slabs), unit="parts"
        ) as advance,
    ):
        found = made_in_order(pool, lambda slab: slab[0].compared(slab[1]), slabs, 2 * threads)
        for (pair, _), compared in zip(slabs, found, strict=True):
            spans[pair.name].append(compared)
            advance(1)
    problems = (pair.problem(spans[pair.name]) for pair in pairs)
    return [problem for problem in problems if problem]
