"""Cells, cached and offloaded prefixes, against plain models of themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.engine.plain_memory import PlainMemory
from tuneserve.serve.engine.cells import CellAllocator
from tuneserve.serve.engine.kv_cache import KVCacheManager, PrefixLimits, PrefixMatch
from tuneserve.serve.engine.prefixes import CachedPrefix, PrefixCache, common_prefix

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
    cells = CellAllocator(30)
    held: dict[int, list[object]] = {}
    for action, one, other, count in steps:
        if action == "append" and count <= cells.free:
            cells.append(one, count)
            held.setdefault(one, []).extend(object() for _ in range(count))
        elif action == "share" and one in held and other not in held:
            length = min(count, len(held[one]))
            cells.share(one, other, length)
            held[other] = held[one][:length]
        elif action == "truncate":
            cells.truncate(one, count)
            if one in held:
                held[one] = held[one][:count]
        elif action == "forget":
            cells.forget(one)
            held.pop(one, None)
        used = {id(cell) for one_held in held.values() for cell in one_held}
        assert cells.free == 30 - len(used)
        assert cells.tokens == sum(map(len, held.values()))


def test_more_cells_than_there_are_is_an_error() -> None:
    cells = CellAllocator(4)
    with pytest.raises(ValueError, match="5 cells asked for, 4 free"):
        cells.append(0, 5)


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(np.array(a, np.int32), np.array(b, np.int32)) == expected


def test_the_longest_prefix_of_the_same_adapter_is_found_and_the_oldest_evicted() -> None:
    cache = PrefixCache()
    assert cache.add(0, CachedPrefix(None, np.array([1, 2, 3], np.int32))) == []
    assert cache.add(1, CachedPrefix(None, np.array([1, 2, 4, 5], np.int32))) == []
    assert cache.add(2, CachedPrefix("lora", np.array([1, 2, 4, 5, 6], np.int32))) == []
    assert cache.longest(None, np.array([1, 2, 4, 5, 6], np.int32)) == (1, 4)
    assert cache.longest("lora", np.array([1, 2, 3], np.int32)) == (2, 2)
    assert cache.longest(None, np.array([9], np.int32)) == (None, 0)
    assert list(cache) == [0, 1, 2], "the least recently used first"
    assert list(cache.pop(1).tokens) == [1, 2, 4, 5]
    assert cache.pop(0).adapter is None
    # A cached sequence that a new one continues is superfluous.
    assert cache.add(3, CachedPrefix("lora", np.array([1, 2, 4, 5, 6, 7], np.int32))) == [2]
    assert len(cache) == 1


KEPT = PrefixLimits(
    idle_cells=1000, share_beside_running=1.0, cells_beside_running=1000, ram_bytes=250
)


def manager(
    cells: int = 100, *, limits: PrefixLimits = KEPT, cuttable: bool = True
) -> tuple[KVCacheManager, PlainMemory]:
    memory = PlainMemory(size=100, cuttable=cuttable)
    cache = KVCacheManager(memory, cells=cells, sequences=6, limits=limits, can_share=cuttable)
    return cache, memory


def compute(cache: KVCacheManager, tokens: list[int], adapter: str | None = None) -> int:
    """A sequence of these tokens, computed from what is there; returns how many were."""
    sequence, there = cache.allocate(cache.match_prefix(adapter, tokens, []))
    assert cache.make_room(len(tokens) - there)
    cache.append(sequence, len(tokens) - there)
    cache.release(sequence, adapter, tokens)
    return there


@dataclass
class Running:
    sequence: int
    adapter: str | None
    tokens: list[int]
    computed: int


def test_a_memory_that_cant_be_cut_shares_and_keeps_nothing() -> None:
    cache, memory = manager(cuttable=False)
    prompt = list(range(40))
    assert compute(cache, prompt) == 0
    assert (cache.cached_prefixes, cache.used_cells) == (0, 0)
    sequence, _ = cache.allocate(PrefixMatch())
    cache.append(sequence, 40)
    running = Running(sequence, None, prompt, 40)
    assert cache.match_prefix(None, [*prompt, 99], [running]) == PrefixMatch()
    assert compute(cache, [*prompt, 99]) == 0
    assert not memory.copied
    assert not memory.saved


def test_the_longest_prefix_is_shared_whether_cached_or_running() -> None:
    cache, memory = manager()
    compute(cache, list(range(20)))
    sequence, _ = cache.allocate(PrefixMatch())
    cache.append(sequence, 30)
    running = Running(sequence, None, [*range(35)], 30)
    found = cache.match_prefix(None, [*range(40)], [running])
    assert (found.sequence, found.length, found.shared) == (sequence, 30, 30)
    cached = cache.match_prefix(None, [*range(20), 99, 99], [])
    assert cached.length == 20
    assert cache.match_prefix("loud", [*range(40)], [running]) == PrefixMatch()
    copy, there = cache.allocate(found)
    assert (there, memory.copied) == (30, [(sequence, copy, 30)])
    assert cache.used_cells == 50, "shared cells are counted once"
    cache.free(sequence)
    assert cache.used_cells == 50
    cache.free(copy)
    assert cache.used_cells == 20


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    cache, _ = manager()
    compute(cache, list(range(20)))
    assert cache.match_prefix(None, list(range(20)), []).length == 19


def test_an_evicted_prefix_is_offloaded_and_comes_back() -> None:
    cache, memory = manager(cells=60)
    assert compute(cache, list(range(60))) == 0
    assert cache.make_room(60)
    assert (cache.used_cells, cache.cached_prefixes, cache.offloaded.size) == (0, 1, 100)
    found = cache.match_prefix(None, [*range(50), 99], [])
    assert (found.length, found.offloaded_tokens, found.shared) == (50, 60, 0)
    sequence, there = cache.allocate(found)
    assert (there, memory.restored) == (50, [sequence])
    assert memory.truncated == [(sequence, 50)], "the rest of the old prefix would be attended to"
    assert cache.used_cells == 50
    assert cache.match_prefix(None, [*range(8), 99], []).length == 8
    short = cache.match_prefix(None, [*range(7), 99], [])
    assert short == PrefixMatch(), "so few tokens are computed sooner than copied"


def test_what_has_no_room_is_not_restored() -> None:
    cache, memory = manager(cells=100)
    compute(cache, list(range(60)))
    assert cache.make_room(100)
    sequence, _ = cache.allocate(PrefixMatch())
    cache.append(sequence, 50)
    _, there = cache.allocate(cache.match_prefix(None, list(range(60)), []))
    assert (there, memory.restored) == (0, [])


def test_what_llama_cpp_fails_to_restore_is_computed() -> None:
    cache, memory = manager(cells=100)
    compute(cache, list(range(60)))
    assert cache.make_room(100)
    memory.has_room = False
    _, there = cache.allocate(cache.match_prefix(None, list(range(60)), []))
    assert (there, cache.used_cells) == (0, 0)


def test_a_match_that_is_dropped_from_ram_while_room_is_made_is_computed() -> None:
    cache, memory = manager(cells=100)
    compute(cache, list(range(60)))
    assert cache.make_room(100)
    compute(cache, list(range(1000, 1060)))
    found = cache.match_prefix(None, list(range(60)), [])
    assert found.offloaded is not None
    memory.size = 250
    assert cache.make_room(found.offloaded_tokens)
    assert cache.allocate(found)[1] == 0


def test_a_sequence_that_ends_is_forgotten_by_llama_cpp_too() -> None:
    cache, memory = manager()
    running, _ = cache.allocate(PrefixMatch())
    cache.append(running, 10)
    cache.free(running)
    assert memory.forgotten == [running]
    compute(cache, list(range(40)))
    assert memory.forgotten == [running], "what is cached stays"
    cache.clear_cached()
    assert len(memory.forgotten) == 2
    assert not memory.saved, "what is cleared is not offloaded"


def test_a_conversation_that_goes_on_keeps_one_sequence() -> None:
    cache, _ = manager(cells=100)
    for turn in range(1, 11):
        compute(cache, list(range(8 * turn)))
        assert (cache.cached_prefixes, cache.used_cells) == (1, 8 * turn)
    assert cache.make_room(100)


def test_a_copy_too_large_for_the_ram_or_empty_takes_no_others_place() -> None:
    cache, memory = manager(cells=100)
    kept = []
    for start, size in ((0, 100), (1000, 100), (2000, 251), (3000, 0), (4000, 250)):
        memory.size = size
        compute(cache, list(range(start, start + 40)))
        assert cache.make_room(100)
        kept.append((len(cache.offloaded), cache.offloaded.size))
    assert kept == [(1, 100), (2, 200), (2, 200), (2, 200), (1, 250)]


def test_offloaded_prefixes_stay_within_their_bytes_the_newest_remain() -> None:
    cache, _ = manager(cells=100)
    for start in (0, 1000, 2000):
        compute(cache, list(range(start, start + 40)))
        cache.make_room(100)
    assert (len(cache.offloaded), cache.offloaded.size) == (2, 200)
    assert cache.match_prefix(None, list(range(40)), []).length == 0
    assert cache.match_prefix(None, list(range(2000, 2040)), []).length == 39


def test_a_short_prefix_is_dropped_instead_of_offloaded() -> None:
    cache, memory = manager()
    compute(cache, list(range(31)))
    assert cache.make_room(100)
    assert not memory.saved
    assert cache.cached_prefixes == 0


def test_room_is_made_from_the_least_recently_used_and_not_from_the_spared() -> None:
    cache, _ = manager(cells=100)
    compute(cache, list(range(40)))
    compute(cache, list(range(1000, 1040)))
    old = cache.match_prefix(None, list(range(40)), [])  # used last now
    assert cache.make_room(60, spare=old.sequence)
    assert cache.match_prefix(None, list(range(40)), []).sequence == old.sequence
    assert not cache.make_room(61, spare=old.sequence)
    assert cache.make_room(61)


def test_a_match_is_a_use() -> None:
    cache, _ = manager(cells=100)
    compute(cache, list(range(40)))
    compute(cache, list(range(1000, 1040)))
    old = cache.match_prefix(None, list(range(40)), [])
    assert cache.make_room(60)
    assert cache.match_prefix(None, list(range(40)), []) == old
    assert cache.match_prefix(None, list(range(1000, 1040)), []).offloaded is not None


def test_beside_running_requests_less_is_cached() -> None:
    limits = PrefixLimits(
        idle_cells=50, share_beside_running=0.5, cells_beside_running=0, ram_bytes=0
    )
    cache, _ = manager(cells=200, limits=limits)
    for start in (0, 1000, 2000):
        compute(cache, list(range(start, start + 20)))
    cache.trim()
    cache.trim()
    assert cache.used_cells == 40, "two of them are within the limit of an idle cache"
    sequence, _ = cache.allocate(PrefixMatch())
    cache.append(sequence, 40)
    cache.trim()
    assert cache.used_cells == 40 + 20, "half of the running one's cells"
    cache.free(sequence)
    cache.trim()
    assert cache.used_cells == 20
    cache.clear_cached()
    assert cache.used_cells == 0


def test_nothing_is_copied_without_ram_for_it() -> None:
    cache, memory = manager(limits=replace(KEPT, ram_bytes=0))
    compute(cache, list(range(40)))
    assert cache.make_room(100)
    assert not memory.saved


def test_with_no_place_for_them_finished_requests_leave_nothing() -> None:
    cache, memory = manager(limits=replace(KEPT, idle_cells=0, ram_bytes=0))
    assert [compute(cache, list(range(40))) for _ in range(2)] == [0, 0]
    assert (cache.used_cells, len(memory.forgotten)) == (0, 2)


def test_a_request_that_ends_before_anything_is_computed_leaves_nothing() -> None:
    cache, memory = manager()
    sequence, _ = cache.allocate(PrefixMatch())
    cache.release(sequence, None, [])
    assert (cache.cached_prefixes, memory.forgotten) == (0, [sequence])


def test_beside_running_requests_some_cells_are_kept_and_never_more_than_when_idle() -> None:
    limits = PrefixLimits(
        idle_cells=50, share_beside_running=0.5, cells_beside_running=30, ram_bytes=0
    )
    cache, _ = manager(cells=300, limits=limits)
    for start in range(0, 6000, 1000):
        compute(cache, list(range(start, start + 10)))
    for running, kept in ((200, 50), (40, 30)):
        sequence, _ = cache.allocate(PrefixMatch())
        cache.append(sequence, running)
        for _ in range(5):
            cache.trim()
        assert cache.used_cells == running + kept
        cache.free(sequence)


def test_a_new_sequence_takes_the_id_of_a_cached_prefix_when_all_are_used() -> None:
    cache, _ = manager(cells=1000)
    for start in range(6):
        compute(cache, [start] * 5)
    assert cache.cached_prefixes == 6
    source = cache.match_prefix(None, [0] * 5, [])
    assert cache.allocate(source)[1] == 4
    assert cache.cached_prefixes == 5
    assert cache.match_prefix(None, [0] * 5, []).sequence == source.sequence


def test_after_many_a_single_request_does_not_keep_what_lies_scattered() -> None:
    limits = PrefixLimits(
        idle_cells=20_000, share_beside_running=0.0, cells_beside_running=20_000, ram_bytes=0
    )
    cache, _ = manager(cells=40_000, limits=limits)
    for start in range(5):
        compute(cache, [start] * 3000)
    for _ in range(2):
        cache.trim()
        cache.start_low(None, [0] * 10)
        assert cache.cached_prefixes == 5, "nothing above them was ever in use"
    sequence, _ = cache.allocate(PrefixMatch())
    cache.append(sequence, 15_000)
    cache.free(sequence)
    cache.start_low(None, [0] * 10)
    assert (cache.cached_prefixes, cache.used_cells) == (5, 15_000), "most of them is in use"
    for _ in range(4):
        assert cache._evict(spare=None)
    cache.start_low(None, [9] * 10)
    assert (cache.cached_prefixes, cache.used_cells) == (0, 0)


def test_what_a_single_request_needs_much_of_is_kept_wherever_it_lies() -> None:
    limits = PrefixLimits(
        idle_cells=20_000, share_beside_running=0.0, cells_beside_running=20_000, ram_bytes=0
    )
    cache, _ = manager(cells=40_000, limits=limits)
    sequence, _ = cache.allocate(PrefixMatch())
    cache.append(sequence, 22_000)
    compute(cache, [1] * 5000)
    cache.free(sequence)
    cache.start_low(None, [1] * 5000)
    assert cache.cached_prefixes == 1
