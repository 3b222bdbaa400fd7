"""What sharing saves over an epoch, and which examples are brought together for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.finetune.tokens.encoder import IGNORED, Encoded
from tuneserve.finetune.tokens.epoch import EpochSampler, Stream
from tuneserve.finetune.tokens.families import _groups, families_of
from tuneserve.finetune.tokens.sharing import RowCosts, Sharing


def example(ids: Sequence[int], trained: int = 2) -> Encoded:
    labels = [IGNORED] * (len(ids) - trained) + [*ids[-trained:]]
    return Encoded(list(ids), labels, len(ids), 0)


def sharing(examples: Sequence[Encoded], per_step: int, costs: RowCosts) -> Sharing:
    stream = Stream(tuple((place,) for place in range(len(examples))), len(examples))
    return Sharing(examples, EpochSampler([stream], 1), per_step, 1, costs)


def test_a_row_is_padded_and_costs_by_its_pairs_of_tokens() -> None:
    costs = RowCosts(pair=0.01, unit=16)
    assert costs.of([70] * 8) == pytest.approx(8 * 80 * (1 + 0.8))
    assert costs.of_tree(70, [70] * 8) == pytest.approx(80 * 1.8)
    # A long row has more pairs than its examples: those that see each other are computed.
    assert costs.of_tree(600, [70] * 8) == pytest.approx(608 + 0.01 * 8 * 80**2)
    assert costs.of_tree(3000, [600] * 8) == pytest.approx(3008 * (1 + 30.08))
    assert costs.is_less(624, [77] * 8)
    assert not costs.is_less(625, [77] * 8)


def test_on_a_gpu_nothing_is_padded_but_the_tree() -> None:
    costs = RowCosts(pair=0.001, unit=128, padding_free=True)
    assert costs.of([70, 30]) == pytest.approx(70 * 1.07 + 30 * 1.03)
    assert costs.of_tree(80, [70, 30]) == pytest.approx(128 * 1.07)
    assert costs.tokens([70, 30]) == 100
    assert not costs.is_less(90, [70, 30])
    assert costs.is_less(256, [200, 200])


def test_an_epoch_with_one_system_prompt() -> None:
    prompt = list(range(100, 160))
    examples = [example([*prompt, n, n + 1000, n + 2000, n + 3000, 1]) for n in range(64)]
    found = sharing(examples, 8, RowCosts(pair=0.0, unit=1)).computed(8)
    # Of each example four tokens are its own and one predicts nothing.
    assert found.mean_tokens == found.most_tokens == 60 + 8 * 4
    assert found.saved == pytest.approx(1 - 92 / (8 * 65))
    halved = sharing(examples, 8, RowCosts(pair=0.0, unit=1)).computed(4)
    assert halved.most_tokens == 60 + 4 * 4


def test_what_is_not_shared_is_padded_as_before() -> None:
    examples = [example(range(n * 100, n * 100 + 52)) for n in range(40)]
    found = sharing(examples, 4, RowCosts(pair=0.01, unit=16)).computed(4)
    # Four times 51 tokens fill a row as long as four rows of 64.
    assert found.most_tokens == 208
    assert found.saved == pytest.approx(48 / (256 * 1.64))
    alone = sharing(examples, 1, RowCosts(pair=0.01, unit=16)).computed(1)
    assert (alone.saved, alone.most_tokens) == (0.0, 64)


def test_questions_about_a_document_meet() -> None:
    prompt, examples = list(range(10)), []
    for number in range(12):
        document = [1000 * number + n + 50 for n in range(40)]
        examples += [example([*prompt, *document, 7, q, 3, 4]) for q in range(3)]
    examples.append(example([*prompt, 5, 6, 7, 8]))
    families = families_of(examples, 8)
    assert families == [(n, n + 1, n + 2) for n in range(0, 36, 3)]
    # What more examples than a step has begin with is no reason to meet.
    assert families_of(examples[:-1], 2) == []


def test_a_common_beginning_and_a_word_more_make_no_family() -> None:
    prompt = list(range(40))
    assert families_of([example([*prompt, n // 2, n, 3, 4, 5, 6]) for n in range(20)], 8) == []


@given(st.lists(st.integers(0, 3), max_size=11), st.integers(2, 5))
def test_groups_are_the_largest_that_share_more_than_their_surroundings(
    inner: list[int], most: int
) -> None:
    common, count = [0, *inner, 0], len(inner) + 1
    ranges = {
        (first, last)
        for first in range(count)
        for last in range(first + 2, min(count, first + most) + 1)
        if min(common[first + 1 : last]) > max(common[first], common[last])
    }
    largest = {
        one
        for one in ranges
        if not any(o != one and o[0] <= one[0] and one[1] <= o[1] for o in ranges)
    }
    found = list(_groups(common, count, most))
    assert set(found) == largest
    assert len(found) == len(largest)
