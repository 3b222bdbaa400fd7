from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.chat.examples import Example, fold_messages
from tuneserve.errors import UsageError
from tuneserve.finetune.data.prepare import prepare_examples
from tuneserve.finetune.data.split import SPLITS, Split, side_of, split_examples
from tuneserve.settings import DataSettings


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
            sides[e.source].add(side_of(e, 0.1, 0.3))
    assert all(len(where) == 1 for where in sides.values())


def test_only_what_is_equal_to_the_letter_is_a_duplicate() -> None:
    first = example("Is it  so?")
    items = [first, replace(first, id="2", group="g"), example("is it so? "), example("is it so?")]
    items += [example("Is it  so?", "Yes"), example("Is it  so?", " yes")]
    items.append(replace(first, id="3", tools=({"type": "function", "function": {"name": "f"}},)))
    thought = {**first.messages[-1], "reasoning_content": "Hm."}
    items.append(replace(first, id="4", messages=(*first.prompt, thought)))
    parts = split(items)
    assert parts.duplicates == 1
    assert sum(parts.counts().values()) == len(items) - 1


def test_a_sentence_in_two_documents_stays_on_the_held_out_side() -> None:
    sources = [f"doc{i}" for i in range(200)]
    sides = {s: side_of(example("x", source=s), 0.1, 0.3) for s in sources}
    held = next(s for s in sources if sides[s] == "test")
    trained = next(s for s in sources if sides[s] == "train")
    parts = split([example("same", "a", trained), example("same", "b", held)])
    assert parts.counts() == {"train": 0, "eval": 0, "test": 1}
    assert parts.straddling == 1


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@st.composite
def conversations(draw: st.DrawFn) -> Example:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(st.sampled_from(["s", "S"]))})
    for turn in range(draw(st.integers(1, 4))):
        asked = draw(st.sampled_from(["a", "A", "b", "c", "d", "e"]))
        messages.append({"role": "user", "content": asked})
        answer = {"role": "assistant", "content": draw(st.sampled_from(["y", "Y", " y"]))}
        messages.append(answer | ({"weight": 0} if draw(st.integers(0, 2)) == 2 else {}))
        del turn
    messages[-1].pop("weight", None)
    return Example(
        str(draw(st.integers(0, 10**9))),
        tuple(messages),
        draw(st.sampled_from([None, "g1", "g2"])),
        draw(st.sampled_from([None, None, "d1", "d2", "d3"])),
        tools=draw(st.sampled_from([None, (TOOL,)])),
    )


sided = st.builds(
    lambda item, side: replace(item, side=side),
    conversations(),
    st.sampled_from([None, None, "train", "eval", "test"]),
)


def beginnings(item: Example) -> set[str]:
    """Everything that the learned answers of a conversation are asked by."""
    found = set()
    for place, message in enumerate(item.messages):
        if message["role"] == "assistant" and message.get("weight") != 0:
            spoken = [(m["role"], m["content"]) for m in item.messages[:place]]
            found.add(json.dumps([item.tools, spoken]))
    return found


def check_promises(parts: Split, items: list[Example]) -> None:
    sides = defaultdict(set)
    for name in SPLITS:
        for e in parts.part(name):
            for beginning in beginnings(e):
                sides["beginning", beginning].add(name)
            if e.source:
                sides["source", e.source].add(name)
    assert all(len(where) == 1 for where in sides.values())
    kept = [e for name in SPLITS for e in parts.part(name)]
    assert len({e.content_key for e in kept}) == len(kept)
    assert len(kept) + parts.removed == len(items)
    assert len({id(e) for e in kept}) == len(kept)
    assert {id(e) for e in kept} <= {id(e) for e in items}


@pytest.mark.parametrize("near", [1.0, 0.7])
@given(items=st.lists(sided, max_size=40))
def test_no_source_no_prompt_and_no_beginning_is_on_two_sides(
    near: float, items: list[Example]
) -> None:
    parts = split_examples(items, eval_fraction=0.2, test_fraction=0.3, near_duplicates=near)
    check_promises(parts, items)
    held = {"eval": parts.eval, "test": parts.test}
    for name, part in held.items():
        ready = [e for e in items if e.side == name]
        if ready:
            assert {e.side for e in part} <= {name}
        for other in SPLITS:
            assert not [e for e in ready if e in parts.part(other)] or other == name
    if near < 1:
        prompts = {fold_messages(e.prompt) for e in (*parts.eval, *parts.test)}
        assert not prompts & {fold_messages(e.prompt) for e in parts.train}


def test_an_answer_that_only_one_conversation_learns_before_hides_no_prompt_in_common() -> None:
    def ask(text: str, answer: str, **more: Any) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": text},
            {"role": "assistant", "content": answer, **more},
        ]

    def pair(number: int) -> tuple[Example, Example]:
        first, then = f"first {number}", ask("then", "that")
        whole = Example("w", (*ask(first, "this"), *then))
        return whole, Example("e", (*ask(first, "this", weight=0), *then))

    pairs = [pair(number) for number in range(200)]
    apart = [both for both in pairs if len({side_of(one, 0.1, 0.3) for one in both}) == 2]
    assert len(apart) > 20
    for both in apart:
        assert (split([*both]).straddling, sum(split([*both]).counts().values())) == (1, 1)


@given(st.lists(conversations(), max_size=30), st.lists(conversations(), max_size=30))
def test_added_conversations_move_none(some: list[Example], more: list[Example]) -> None:
    before, after = split(some), split([*more, *some])
    for name in SPLITS:
        others = [e.content_key for other in SPLITS if other != name for e in after.part(other)]
        # The same words out of another source may stand elsewhere.
        alone = [e for e in before.part(name) if not e.source]
        shared = {one for e in (*some, *more) if e.source for one in e.prompt_hashes()}
        free = [e for e in alone if shared.isdisjoint(e.prompt_hashes())]
        assert not {e.content_key for e in free} & set(others)
        moved = {id(e) for other in SPLITS if other != name for e in after.part(other)}
        assert not {id(e) for e in before.part(name)} & moved


@given(conversations(), st.integers(1, 3))
def test_the_beginning_of_a_conversation_goes_where_the_whole_goes(
    whole: Example, turns: int
) -> None:
    ends = [p for p, m in enumerate(whole.messages) if m["role"] == "assistant"]
    end = ends[min(turns, len(ends)) - 1]
    last = {k: v for k, v in whole.messages[end].items() if k != "weight"}
    short = replace(whole, messages=(*whole.messages[:end], last))
    if all(m.get("weight") != 0 for m in whole.messages):
        assert side_of(short, 0.2, 0.4) == side_of(whole, 0.2, 0.4)


def test_a_ready_made_test_file_is_the_test_and_takes_its_prompts_out_of_training() -> None:
    train = [replace(example(f"q {i}"), side="train") for i in range(200)]
    test = [replace(example(f"q {i}", "no"), side="test") for i in range(10)]
    parts = split([*train, *test])
    assert parts.test == test
    assert parts.straddling == 10
    assert 5 < len(parts.eval) < 40
    assert len(parts.train) + len(parts.eval) == 190
    assert "test_fraction is not used" in parts.notes.lines()[0]
    assert any("removed from train" in line for line in parts.notes.lines())


def refusal(path: Path, rows: list[dict[str, Any]], **settings: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError) as caught:
        prepare_examples(DataSettings(file=path, **settings))
    return caught.value.render()


def test_an_empty_part_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    jokes = [{"instruction": "Tell me a joke.", "output": f"Joke {i}."} for i in range(100)]
    message = refusal(path, jokes)
    assert "all 100 examples begin with the same prompt" in message
    assert "one prompt stays on one side" in message
    rows = [
        {"instruction": f"q {i}", "output": "a", "source": ["wiki", "forum", "news"][i % 3]}
        for i in range(300)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = "\n".join(prepare_examples(DataSettings(file=path)).notes.lines())
    assert "no eval split, training goes on without evaluations" in message
    assert "3 sources ('wiki', 'forum', 'news'), and a source stays on one side" in message
    assert "--fields source=" in message
    message = refusal(path, rows, least_held_out=0)
    assert "300 examples leave none for 'eval'" in message
    without = prepare_examples(DataSettings(file=path, fields=("source=",), near_duplicates=1))
    assert all(without.split.counts().values())


def test_a_fraction_that_is_too_small_is_told_with_one_that_is_enough(tmp_path: Path) -> None:
    rows = [{"instruction": f"question {i}", "output": "a"} for i in range(8)]
    exact: dict[str, Any] = {"test_fraction": 0.0, "least_held_out": 0}
    message = refusal(tmp_path / "a.jsonl", rows, eval_fraction=0.001, **exact)
    assert "8 prompts are spread by a hash, and 0.001 of them was too little" in message
    enough = float(message.partition("eval_fraction to ")[2].split()[0])
    settings = DataSettings(file=tmp_path / "a.jsonl", eval_fraction=enough, **exact)
    assert prepare_examples(settings.model_copy(update={"near_duplicates": 1.0})).split.eval


def test_a_prompt_in_another_case_is_near_however_few_texts_there_are() -> None:
    test, train = replace(example("Is it so?"), side="test"), example("IS IT  SO?")
    alike = split_examples([test, train], eval_fraction=0, test_fraction=0, near_duplicates=0.9)
    assert [(one.example, one.similarity) for one in alike.near] == [(train, 1.0)]
    same_only = split_examples([test, train], eval_fraction=0, test_fraction=0)
    assert same_only.counts() == {"train": 1, "eval": 0, "test": 1}
