"""Which tokens of a sequence a LoRA adapter takes part in.

An activated LoRA (aLoRA; Greenewald et al. 2025, https://arxiv.org/abs/2504.12397) acts from an
invocation sequence on, which stands in the prompt; what stands before is the base's. So the base
and all such adapters share the keys and values of a conversation. As PEFT does, which trains them
(`alora_invocation_tokens`), the last place of the sequence in the prompt counts, and the first
token of the sequence is the first that the adapter takes part in.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

EVERYWHERE = sys.maxsize


@dataclass(frozen=True, slots=True)
class Activated:
    """The adapter `key`, from the token `start` on; what stands before is the base's."""

    key: str
    start: int


Adapter = str | Activated | None
"""What computes a sequence: the base alone (None), with the adapter of this key, or from some token
on with it."""


def adapter_key(adapter: Adapter) -> str | None:
    """The key of the adapter that a sequence needs to be loaded."""
    return adapter.key if isinstance(adapter, Activated) else adapter


def active_at(adapter: Adapter, position: int) -> str | None:
    """The key of the adapter that takes part in the token at a position."""
    if isinstance(adapter, Activated):
        return adapter.key if position >= adapter.start else None
    return adapter


def alike_until(one: Adapter, other: Adapter) -> int:
    """The number of leading tokens whose keys and values two sequences have in common where their
    tokens are equal."""
    return EVERYWHERE if one == other else min(_of_base(one), _of_base(other))


def shared_key(adapter: Adapter) -> str | None:
    """The key of the adapter that takes part from the first token on; None: the base begins."""
    return active_at(adapter, 0)


def _of_base(adapter: Adapter) -> int:
    if isinstance(adapter, Activated):
        return adapter.start
    return EVERYWHERE if adapter is None else 0


def last_place(tokens: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Where `wanted` stands in `tokens` for the last time; None: nowhere."""
    # Searching texts is C, and a token's id is a character's number: vocabularies are smaller
    # than Unicode.
    place = "".join(map(chr, tokens)).rfind("".join(map(chr, wanted)))
    return None if place < 0 else place
