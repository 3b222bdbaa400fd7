"""Negative log-likelihood of the reference answers, given their prompts.

Many short sequences are packed into one decode call; only the answer's positions give logits.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from tuneserve.chat.prompt import EncodedExample
from tuneserve.divergence import token_nll
from tuneserve.llama import LlamaContext, TokenBatch

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
    for pack in _packs(encoded, context.n_batch):
        if all(item.example.id in known for item in pack):
            continue
        context.clear()
        yield from zip(pack, _score(context, batch, pack), strict=True)


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


def _score(
    context: LlamaContext, batch: TokenBatch, pack: list[EncodedExample]
) -> list[Likelihood]:
    losses = [0.0] * len(pack)
    waiting: list[tuple[int, int, int]] = []  # (index in the batch, sequence, token to predict)

    def flush() -> None:
        context.decode(batch)
        for index, sequence, target in waiting:
            losses[sequence] += token_nll(context.token_logits(index), target)
        waiting.clear()
        batch.clear()

    for sequence, item in enumerate(pack):
        tokens = item.prompt + item.answer
        # From here on each token's successor is scored.
        asked = len(item.prompt) + item.unscored - 1
        position = 0
        while position < _fed(item):
            if not batch.room:
                flush()
            piece = tokens[position : min(position + batch.room, _fed(item))]
            end = position + len(piece)
            last = batch.add(piece, position, sequence, outputs=end - asked)
            waiting += [
                (last - (end - 1 - scored), sequence, tokens[scored + 1])
                for scored in range(max(asked, position), end)
            ]
            position = end
    flush()
    return [
        Likelihood(loss, len(item.answer) - item.unscored)
        for loss, item in zip(losses, pack, strict=True)
    ]
