"""malloc's heap is trimmed before a long batch among short ones, and hardly ever otherwise."""

from __future__ import annotations

import random

from finetune.heap import Heap


def trimmed(sizes: list[int]) -> int:
    heap = Heap()
    for size in sizes:
        heap.before(size)
    return heap.trimmed


def test_a_long_batch_among_short_ones_finds_the_heap_trimmed() -> None:
    assert trimmed([2304, 500, 600, 2000, 500]) == 1


def test_batches_of_like_length_are_left_alone() -> None:
    source = random.Random(0)
    assert trimmed([source.randrange(1000, 1200) for _ in range(500)]) == 0
    assert trimmed([2304, *[source.randrange(400, 1000) for _ in range(500)]]) == 0
