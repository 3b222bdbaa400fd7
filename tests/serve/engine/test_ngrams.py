"""Guesses from the text itself."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tuneserve.serve.engine.ngrams import LONGEST, SIZE, NgramDrafter


def grown(tokens: list[int]) -> NgramDrafter:
    """A drafter that saw every token one by one."""
    text: list[int] = []
    drafter = NgramDrafter(text)
    for token in tokens:
        text.append(token)
        drafter.see()
    return drafter


def test_what_followed_the_same_tokens_is_guessed() -> None:
    drafter = NgramDrafter([1, 2, 3, 4, 5, 6, 1, 2, 3])
    assert (drafter.matched, drafter.draft(3)) == (3, [4, 5, 6])


def test_no_guess_where_nothing_repeats() -> None:
    for tokens in ([], [1], [1, 2, 3], [1, 2, 3, 4, 5, 2, 3]):
        assert (NgramDrafter(tokens).matched, NgramDrafter(tokens).draft(4)) == (0, [])


def test_the_place_that_agrees_longest_is_the_source() -> None:
    early, late = [9, 8, 1, 2, 3, 50], [7, 7, 1, 2, 3, 60]
    assert NgramDrafter([*early, *late, 9, 8, 1, 2, 3]).draft(1) == [50]
    assert NgramDrafter([*early, *late, 4, 4, 1, 2, 3]).draft(1) == [60]


def test_a_text_in_a_loop_goes_on_in_it() -> None:
    assert NgramDrafter([5, 6, 5, 6, 5, 6]).draft(5) == [5, 6, 5, 6, 5]
    assert NgramDrafter([5, 5, 5, 5]).draft(3) == [5, 5, 5]


def test_right_guesses_lengthen_the_agreement_and_a_wrong_one_ends_it() -> None:
    text = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    drafter = NgramDrafter(text)
    text.append(4)
    assert drafter.see()
    assert (drafter.matched, drafter.draft(2)) == (4, [5, 6])
    text.append(77)
    assert not drafter.see()
    assert drafter.matched == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 60))
def test_indexed_at_once_or_token_by_token_the_index_is_the_same(
    tokens: list[int], split: int
) -> None:
    text = tokens[:split]
    mixed = NgramDrafter(text)
    for token in tokens[split:]:
        text.append(token)
        mixed.see()
    whole, single = NgramDrafter(list(tokens)), grown(tokens)
    assert whole._latest == single._latest == mixed._latest
    assert whole._earlier == single._earlier == mixed._earlier
    for drafter in (whole, single, mixed):
        assert drafter.matched == 0 or SIZE <= drafter.matched <= LONGEST
        guess = drafter.draft(4)
        assert len(guess) == (4 if drafter.matched else 0)
        if guess:  # What is guessed followed a like beginning before.
            last = tokens[-SIZE:]
            assert any(
                tokens[place - SIZE : place] == last and tokens[place] == guess[0]
                for place in range(SIZE, len(tokens))
            )
