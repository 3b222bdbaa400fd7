"""The tree of a batch's examples, against a reading of it that knows nothing of how it is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tuneserve.finetune.tokens.encoder import IGNORED
from tuneserve.finetune.tokens.prefix_tree import (
    PrefixTree,
    common_length,
    prefix_tree,
    tree_size,
)

Example = tuple[list[int], list[int]]


@st.composite
def examples(draw: st.DrawFn) -> list[Example]:
    """Examples that begin alike: few different tokens, and beginnings taken from one another."""
    made: list[Example] = []
    for _ in range(draw(st.integers(1, 7))):
        begun: list[int] = []
        if made and draw(st.booleans()):
            begun = draw(st.sampled_from(made))[0]
        kept = begun[: draw(st.integers(0, len(begun)))]
        ids = [*kept, *draw(st.lists(st.integers(1, 3), min_size=not kept, max_size=6))]
        trained = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        labels = [token if t else IGNORED for token, t in zip(ids, trained, strict=True)]
        made.append((ids, labels))
    return made


def context(tree: PrefixTree, place: int) -> list[int]:
    """The tokens that a place sees, in the order of their positions."""
    seen = [n for n in range(len(tree)) if n <= place < tree.ends[n]]
    assert [tree.positions[n] for n in seen] == list(range(len(seen)))
    return [tree.ids[n] for n in seen]


def trained(batch: Sequence[Example]) -> Counter[tuple[int, ...]]:
    """What is trained: beginnings with the token that follows, as often as examples train it."""
    return Counter(
        tuple(ids[: n + 1])
        for ids, labels in batch
        for n in range(1, len(ids))
        if labels[n] != IGNORED
    )


@given(examples())
def test_a_place_sees_its_own_beginning_and_predicts_what_is_trained_after_it(
    batch: list[Example],
) -> None:
    tree = prefix_tree(batch)
    found: Counter[tuple[int, ...]] = Counter()
    for row, target, weight in zip(tree.rows, tree.targets, tree.weights, strict=True):
        assert weight > 0
        found[(*context(tree, row), target)] += weight
    assert found == trained(batch)
    assert len({*zip(tree.rows, tree.targets, strict=True)}) == len(tree.rows)


@given(examples())
def test_every_beginning_that_is_needed_stands_in_it_once(batch: list[Example]) -> None:
    tree = prefix_tree(batch)
    needed = {
        tuple(beginning[:length])
        for *beginning, _ in trained(batch)
        for length in range(1, len(beginning) + 1)
    }
    contexts = [tuple(context(tree, place)) for place in range(len(tree))]
    assert len(contexts) == len(set(contexts)) == tree_size(batch)
    assert set(contexts) == needed


@given(examples())
def test_the_order_of_the_examples_does_not_matter(batch: list[Example]) -> None:
    other = batch[::-1]
    one, two = prefix_tree(batch), prefix_tree(other)
    assert (one.ids, one.ends) == (two.ids, two.ends)
    assert {*zip(one.rows, one.targets, one.weights, strict=True)} == {
        *zip(two.rows, two.targets, two.weights, strict=True)
    }


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_the_common_length_is_that_of_the_common_beginning(
    one: list[int], other: list[int]
) -> None:
    pairs = zip(one, other, strict=False)
    expected = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    assert common_length(one, other) == expected


def test_a_place_where_examples_branch_has_a_target_for_each() -> None:
    system, yes, no = [7, 8, 9], 1, 2
    batch = [([*system, answer, 5], [IGNORED] * 3 + [answer, 5]) for answer in (yes, no, yes)]
    tree = prefix_tree(batch)
    # The end token is predicted and nothing comes after it.
    assert tree.ids == [7, 8, 9, 1, 2]
    assert tree.positions == [0, 1, 2, 3, 3]
    assert tree.ends == [5, 5, 5, 4, 5]
    pairs = zip(tree.rows, tree.targets, tree.weights, strict=True)
    assert sorted(pairs) == [(2, yes, 2), (2, no, 1), (3, 5, 2), (4, 5, 1)]


def test_answers_of_one_conversation_share_it() -> None:
    talk = list(range(10, 22))
    first = (talk[:6], [IGNORED] * 4 + talk[4:6])
    second = (talk, [IGNORED] * 10 + talk[10:])
    tree = prefix_tree([first, second])
    assert tree.ids == talk[:11]
    assert list(zip(tree.rows, tree.targets, strict=True)) == [
        (3, 14), (4, 15), (9, 20), (10, 21),
    ]  # fmt: skip


def test_examples_that_train_nothing_take_no_place() -> None:
    # Nothing predicts a first token.
    assert len(prefix_tree([([1, 2], [IGNORED, IGNORED]), ([3], [3])])) == 0
