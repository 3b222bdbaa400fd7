"""Negative log-likelihood of the reference answers, given their prompts.

Many short sequences are packed into one decode call; only the answer's positions give logits. What
sequences of a pack begin with alike (an instruction, or the whole prompt of several choices) is
computed once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np

from tuneserve.bench.measure.numbers import check_numbers
from tuneserve.chat.prompt import EncodedExample
from tuneserve.divergence import token_nll
from tuneserve.llama import LlamaContext, TokenBatch
from tuneserve.llama.vocabularies import can_be_cut

PACKED_SEQUENCES = 64  # sequences in one context at most; llama.cpp allows 256


@dataclass(frozen=True)
class Likelihood:
    """Summed negative log-likelihood (nats) of an answer's tokens, and their number."""

    nll: float
    tokens: int


def answer_likelihoods(
    context: LlamaContext, encoded: Sequence[EncodedExample], *, known: Container[str] = ()
) -> Iterator[tuple[EncodedExample, Likelihood]]:
    """Each example with its likelihood. The context needs PACKED_SEQUENCES sequences.

    Which sequences share a decode call touches the last digits, so packs are always made of all
    examples and those whose ids are all `known` are left out: a benchmark that goes on after a
    kill gives the same figures. A sequence longer than the batch is decoded piece by piece.
    """
    batch = TokenBatch(context.n_batch)
    for pack in _packs(encoded, context.n_batch, shared=can_be_cut(context.model)):
        if all(item.example.id in known for item in pack.items):
            continue
        context.clear()
        yield from zip(pack.items, _score(context, batch, pack), strict=True)


class _Pack:
    """Sequences of one decode call. `order` has their tokens, without the last one of each answer,
    which is only predicted, sorted: so sequences that begin alike are neighbours. `used`: the
    tokens that go in, `shared` ones once."""

    def __init__(self, *, shared: bool) -> None:
        self.items: list[EncodedExample] = []
        self.order: list[tuple[list[int], int]] = []  # with the place in `items`
        self.used = 0
        self._shared = shared

    def more_with(self, tokens: list[int]) -> int:
        """How many more tokens go in with this sequence."""
        if not self._shared:
            return len(tokens)
        place = bisect_left(self.order, (tokens, -1))
        beside = self.order[max(0, place - 1) : place + 1]
        return len(tokens) - max((_alike(tokens, other) for other, _ in beside), default=0)

    def add(self, item: EncodedExample, tokens: list[int], more: int) -> None:
        entry = tokens, len(self.items)
        self.order.insert(bisect_left(self.order, entry), entry)
        self.items.append(item)
        self.used += more

    def alike(self) -> list[int]:
        """How many tokens each sequence of `order` begins with as the one before it does."""
        if not self._shared:
            return [0] * len(self.order)
        return [0, *(_alike(one, other) for (one, _), (other, _) in pairwise(self.order))]


def _alike(one: list[int], other: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _packs(encoded: Sequence[EncodedExample], room: int, *, shared: bool) -> Iterator[_Pack]:
    pack = _Pack(shared=shared)
    for item in encoded:
        tokens = (item.prompt + item.answer)[:-1]
        more = pack.more_with(tokens)
        if pack.items and (pack.used + more > room or len(pack.items) == PACKED_SEQUENCES):
            yield pack
            pack, more = _Pack(shared=shared), len(tokens)
        pack.add(item, tokens, more)
    if pack.items:
        yield pack


def _segments(alike: Sequence[int], sequence: int, length: int) -> Iterator[tuple[int, int, int]]:
    """What a sequence of `length` tokens adds to those before it: (begin, end, how many sequences
    from it on have these tokens), where the next ones share `alike` tokens with theirs before."""
    shared = length
    ends = []  # [how far so many sequences go along], fewer and fewer tokens
    for following in alike[sequence + 1 :]:
        ends.append(shared)
        shared = min(shared, following)
        if shared <= alike[sequence]:
            break
    else:
        ends.append(shared)
    begin = alike[sequence]
    for count in range(len(ends), 0, -1):
        if ends[count - 1] > begin:
            yield begin, ends[count - 1], count
            begin = ends[count - 1]


def _score(context: LlamaContext, batch: TokenBatch, pack: _Pack) -> list[Likelihood]:
    losses = [0.0] * len(pack.items)
    waiting: list[tuple[int, int, int]] = []  # (index in the batch, item, token to predict)
    # From here on each token's successor is scored.
    asked = [len(item.prompt) + item.unscored - 1 for item in pack.items]
    alike = pack.alike()

    def flush() -> None:
        context.decode(batch)
        for index, place, target in waiting:
            losses[place] += token_nll(context.token_logits(index), target)
        waiting.clear()
        batch.clear()

    for sequence, (tokens, _) in enumerate(pack.order):
        for begin, stop, count in _segments(alike, sequence, len(tokens)):
            places = [place for _, place in pack.order[sequence : sequence + count]]
            position = begin
            while position < stop:
                if not batch.room:
                    flush()
                end = min(position + batch.room, stop)
                outputs = end - min(asked[place] for place in places)
                piece = tokens[position:end]
                last = batch.add_shared(piece, position, sequence, count, outputs=outputs)
                for place in places:
                    item = pack.items[place]
                    scored = range(max(asked[place], position), end)
                    following = item.answer[scored.start + 1 - len(item.prompt) :]
                    waiting += [
                        (last - (end - 1 - at), place, target)
                        for at, target in zip(scored, following, strict=False)
                    ]
                position = end
    flush()
    check_numbers(np.array(losses), context.model.path)
    return [
        Likelihood(loss, len(item.answer) - item.unscored)
        for loss, item in zip(losses, pack.items, strict=True)
    ]
