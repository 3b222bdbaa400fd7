from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.chat.examples import Example
from tuneserve.finetune.data.split import SPLITS, Split, side_of, split_examples


def example(
    prompt: str, answer: str = "yes", source: str | None = None, group: str | None = None
) -> Example:
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return Example(f"{prompt}/{answer}/{source}", messages, group, source)


def split(examples: list[Example]) -> Split:
    return split_examples(examples, eval_fraction=0.1, test_fraction=0.3)


examples = st.lists(
    st.builds(
        example,
        st.text("abc ", max_size=4),
        st.sampled_from(["yes", "no"]),
        st.sampled_from([None, "d1", "d2", "d3"]),
        st.sampled_from([None, "g1", "g2"]),
    ),
    max_size=40,
)


def test_fractions_hold_in_every_group() -> None:
    parts = split([example(f"text {i}", group=f"g{i % 4}") for i in range(4000)])
    for counts in parts.groups().values():
        total = sum(counts.values())
        # Four standard deviations of a binomial share of 1,000.
        assert counts["test"] / total == pytest.approx(0.3, abs=0.058)
        assert counts["eval"] / total == pytest.approx(0.1, abs=0.038)


@given(examples, examples)
def test_adding_examples_moves_none_from_one_side_to_another(
    some: list[Example], more: list[Example]
) -> None:
    before, after = split(some), split(some + more)
    for name in SPLITS:
        others = {e.id for other in SPLITS if other != name for e in after.part(other)}
        assert not {e.id for e in before.part(name)} & others


@given(examples)
def test_no_prompt_is_on_two_sides_and_nothing_is_lost_uncounted(items: list[Example]) -> None:
    parts = split(items)
    sides = defaultdict(set)
    for name in SPLITS:
        for e in parts.part(name):
            sides[e.prompt_key].add(name)
    assert all(len(where) == 1 for where in sides.values())
    assert sum(parts.counts().values()) + parts.duplicates + parts.straddling == len(items)


@given(examples)
def test_sentences_of_one_document_stay_together(items: list[Example]) -> None:
    sides = defaultdict(set)
    for e in items:
        if e.source:
            sides[e.group, e.source].add(side_of(e, 0.1, 0.3))
    assert all(len(where) == 1 for where in sides.values())


def test_duplicates_differ_in_case_and_white_space_only() -> None:
    parts = split([example("Is it  so?"), example("is it so? "), example("is it so?", "no")])
    assert parts.duplicates == 1
    assert sum(parts.counts().values()) == 2


def test_a_sentence_in_two_documents_stays_on_the_held_out_side() -> None:
    sources = [f"doc{i}" for i in range(200)]
    sides = {s: side_of(example("x", source=s), 0.1, 0.3) for s in sources}
    held = next(s for s in sources if sides[s] == "test")
    trained = next(s for s in sources if sides[s] == "train")
    parts = split([example("same", "a", trained), example("same", "b", held)])
    assert parts.counts() == {"train": 0, "eval": 0, "test": 1}
    assert parts.straddling == 1
