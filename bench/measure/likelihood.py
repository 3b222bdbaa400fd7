"""Negative log-likelihood of the reference answers, given their prompts.

Many short sequences are packed into one decode call; only the answer's positions give logits.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuneserve.bench.measure.decode import TokenBatch, clear
from tuneserve.bench.tasks.prompts import EncodedExample
from tuneserve.llama import LlamaContext

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
    batch = TokenBatch(context)
    for pack in _packs(encoded, context.n_batch):
        if all(item.example.id in known for item in pack):
            continue
        clear(context)
        yield from zip(pack, _score(batch, pack), strict=True)


def token_nll(logits: npt.NDArray[np.float32], token: int) -> float:
    """-log softmax(logits)[token] in nats; the sum is taken in float64."""
    shifted = logits - logits.max()
    return float(np.log(np.exp(shifted).sum(dtype=np.float64)) - np.float64(shifted[token]))


def _packs(encoded: Sequence[EncodedExample], room: int) -> Iterator[list[EncodedExample]]:
    pack: list[EncodedExample] = []
    used = 0
    for item in encoded:
        size = _fed(item)
        if pack and (used + size > room or len(pack) == PACKED_SEQUENCES):
            yield pack
            pack, used = [], 0
        pack.append(item)
        used += size
    if pack:
        yield pack


def _fed(item: EncodedExample) -> int:
    """Tokens that go in: the last one of the answer is only predicted."""
    return len(item.prompt) + len(item.answer) - 1


def _score(batch: TokenBatch, pack: list[EncodedExample]) -> list[Likelihood]:
    losses = [0.0] * len(pack)
    waiting: list[tuple[int, int, int]] = []  # (place in the batch, sequence, token to predict)

    def flush() -> None:
        batch.decode()
        for place, sequence, target in waiting:
            losses[sequence] += token_nll(batch.logits(place), target)
        waiting.clear()

    for sequence, item in enumerate(pack):
        tokens = item.prompt + item.answer
        # From here on each token's successor is scored.
        asked = len(item.prompt) + item.unscored - 1
        position = 0
        while position < _fed(item):
            if not batch.room:
                flush()
            piece = tokens[position : min(position + batch.room, _fed(item))]
            last = batch.extend(piece, position, sequence, wanted=asked - position)
            for scored in range(max(asked, position), position + len(piece)):
                place = last - (position + len(piece) - 1 - scored)
                waiting.append((place, sequence, tokens[scored + 1]))
            position += len(piece)
    flush()
    return [
        Likelihood(loss, len(item.answer) - item.unscored)
        for loss, item in zip(losses, pack, strict=True)
    ]
