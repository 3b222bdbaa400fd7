"""The ledger of cells and the prefix cache, against plain models of themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.serve.engine.memory import CellLedger, PrefixCache, common_prefix
from tuneserve.serve.engine.schedule import PromptPace, plan_batch
from tuneserve.serve.engine.task import Task
from tuneserve.serve.engine.types import GREEDY

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "share", "truncate", "forget"]),
        st.integers(0, 4),
        st.integers(0, 4),
        st.integers(0, 12),
    ),
    max_size=40,
)


@given(STEPS)
def test_a_cell_is_free_when_no_sequence_holds_it(steps: list[tuple[str, int, int, int]]) -> None:
    ledger = CellLedger(30)
    held: dict[int, list[object]] = {}
    for action, one, other, count in steps:
        if action == "append" and count <= ledger.free:
            ledger.append(one, count)
            held.setdefault(one, []).extend(object() for _ in range(count))
        elif action == "share" and one in held and other not in held:
            length = min(count, len(held[one]))
            ledger.share(one, other, length)
            held[other] = held[one][:length]
        elif action == "truncate":
            ledger.truncate(one, count)
            if one in held:
                held[one] = held[one][:count]
        elif action == "forget":
            ledger.forget(one)
            held.pop(one, None)
        used = {id(cell) for cells in held.values() for cell in cells}
        assert ledger.free == 30 - len(used)
        assert all(ledger.length(sequence) == len(cells) for sequence, cells in held.items())


def test_more_cells_than_there_are_is_an_error() -> None:
    ledger = CellLedger(4)
    with pytest.raises(ValueError, match="5 cells asked for, 4 free"):
        ledger.append(0, 5)


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(np.array(a, np.int32), np.array(b, np.int32)) == expected


def test_the_longest_prefix_of_the_same_adapter_is_found_and_the_oldest_evicted() -> None:
    cache = PrefixCache()
    assert cache.keep(0, None, [1, 2, 3]) == []
    assert cache.keep(1, None, [1, 2, 4, 5]) == []
    assert cache.keep(2, "lora", [1, 2, 4, 5, 6]) == []
    assert cache.longest(None, np.array([1, 2, 4, 5, 6], np.int32)) == (1, 4)
    assert cache.longest("lora", np.array([1, 2, 3], np.int32)) == (2, 2)
    assert cache.longest(None, np.array([9], np.int32)) == (None, 0)
    assert cache.oldest() == 0
    assert cache.oldest([1, 2]) == 1
    assert list(cache.remove(1).tokens) == [1, 2, 4, 5]
    assert cache.remove(0).adapter is None
    # A kept sequence that a new one continues is superfluous.
    assert cache.keep(3, "lora", [1, 2, 4, 5, 6, 7]) == [2]
    assert len(cache) == 1


def make_task(pending: int, *, computed: int = 0) -> Task:
    task = Task(
        range(computed + pending),
        GREEDY,
        adapter=None,
        limit=1000,
        deliver=lambda _: None,
        stream=False,
    )
    task.computed = computed
    return task


def test_running_answers_come_before_prompts_and_prompts_in_order() -> None:
    first, second = make_task(50), make_task(50)
    answers = [make_task(1, computed=5) for _ in range(3)]
    plan = plan_batch([first, *answers, second], room=100, chunk=70)
    assert plan == [(answers[0], 1), (answers[1], 1), (answers[2], 1), (first, 50), (second, 20)]
    assert plan_batch([first, *answers], room=2, chunk=70) == [(answers[0], 1), (answers[1], 1)]


def test_prompts_beside_streams_get_what_fits_a_step() -> None:
    pace = PromptPace(largest=2048, first=512)
    assert pace.chunk(beside_streams=True) == 512
    pace.observe(500, 0.5)
    assert pace.chunk(beside_streams=True) == 250
    assert pace.chunk(beside_streams=False) == 500
    pace.observe(8, 100.0)
    assert pace.chunk(beside_streams=True) == 250, "a handful of tokens says nothing"
    for _ in range(40):
        pace.observe(40, 40.0)
    assert pace.chunk(beside_streams=True) == 32
