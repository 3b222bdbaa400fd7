"""What an epoch is drawn from."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tuneserve.finetune.tokens.epoch import EpochSampler, LengthGroupedSampler, Stream


def singles(first: int, count: int) -> tuple[tuple[int, ...], ...]:
    return tuple((place,) for place in range(first, first + count))


def test_an_ordinary_epoch_is_every_example_once_in_an_order_of_its_own() -> None:
    sampler = EpochSampler([Stream(singles(0, 50), 50)], seed=1)
    first, second = sampler.places(0), sampler.places(1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert sampler.places(0) == first
    assert EpochSampler(sampler.streams, seed=2).places(0) != first


@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 9))
def test_none_comes_again_before_all_others_have_come(
    examples: int, per_epoch: int, epochs: int
) -> None:
    sampler = EpochSampler([Stream(singles(0, examples), per_epoch)], 0)
    drawn = [place for epoch in range(epochs) for place in sampler.places(epoch)]
    assert len(sampler) * epochs == len(drawn)
    times = Counter(drawn)
    counts = [times[place] for place in range(examples)]
    assert max(counts) - min(counts) <= 1


def test_wordings_take_turns_and_differ_between_examples() -> None:
    items = tuple(tuple(range(3 * i, 3 * i + 3)) for i in range(40))
    sampler = EpochSampler([Stream(items, 40)], 7)
    epochs = [{place // 3: place % 3 for place in sampler.places(epoch)} for epoch in range(6)]
    for example in range(40):
        wordings = [epoch[example] for epoch in epochs]
        assert set(wordings[:3]) == set(wordings[3:]) == {0, 1, 2}
    assert len(set(epochs[0].values())) == 3


def test_the_sampler_visits_what_is_drawn_in_batches_of_like_length() -> None:
    lengths = [10 + place % 60 for place in range(300)]
    sampler = EpochSampler([Stream(singles(0, 200), 100), Stream(singles(200, 100), 300)], 3)
    order = LengthGroupedSampler(lengths, sampler, batch_size=4, seed=3)
    order.set_epoch(2)
    visited = list(order)
    assert Counter(visited) == Counter(sampler.places(2))
    assert len(order) == len(visited) == 400
    batches = [[lengths[i] for i in visited[n : n + 4]] for n in range(0, 400, 4)]
    assert sum(max(b) - min(b) for b in batches) / len(batches) < 3
    assert max(batches[0]) == max(lengths)


FAMILIES = st.lists(st.integers(1, 5), max_size=9)


@given(FAMILIES, st.integers(0, 30), st.integers(5, 8))
def test_families_are_visited_together_and_each_example_once(
    sizes: list[int], alone: int, batch_size: int
) -> None:
    families, count = [], 0
    for size in sizes:
        families.append(tuple(range(count, count + size)))
        count += size
    lengths = [5 + place % 7 for place in range(count + alone)]
    sampler = EpochSampler([Stream(singles(0, len(lengths)), len(lengths))], 1)
    visited = list(LengthGroupedSampler(lengths, sampler, batch_size, 1, families))
    assert sorted(visited) == list(range(len(lengths)))
    batches = [visited[n : n + batch_size] for n in range(0, len(visited), batch_size)]
    for family in families:
        met = [batch for batch in batches if not set(family).isdisjoint(batch)]
        # The border of a batch may cut it, and that of the short last one.
        assert len(met) <= 3


def test_without_families_the_order_is_what_it_was() -> None:
    lengths = [10 + place * 7 % 60 for place in range(90)]
    sampler = EpochSampler([Stream(singles(0, 90), 90)], 3)
    plain = list(LengthGroupedSampler(lengths, sampler, 4, 3))
    assert plain == list(LengthGroupedSampler(lengths, sampler, 4, 3, [(5,), (6,)]))
    assert plain[:8] == [8, 68, 51, 34, 71, 54, 37, 80]
