from __future__ import annotations

import json
import random
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.finetune.data.test_split import check_promises, example, sided
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.finetune.data.notes import Note
from tuneserve.finetune.data.prepare import Prepared, prepare_examples
from tuneserve.finetune.data.split import split_examples
from tuneserve.finetune.data.split_sizes import FEWEST_EVAL, split_with_least
from tuneserve.settings import DataSettings

WORDS = ("iron", "tin", "zinc", "lead", "gold", "north", "south", "wind", "rain", "snow", "green",
         "amber", "lilac", "ochre", "bronze")  # fmt: skip


def questions(count: int, seed: int) -> list[Example]:
    draw = random.Random(seed)
    return [example(f"{' '.join(draw.sample(WORDS, 6))} {i}?", "x") for i in range(count)]


def sizes(count: int, seed: int) -> dict[str, int]:
    split = split_with_least(
        questions(count, seed), eval_fraction=0.05, test_fraction=0.2, near_duplicates=0.7, least=16
    )
    return split.counts()


@pytest.mark.parametrize("seed", range(20))
def test_sixty_examples_always_have_enough_in_every_part(seed: int) -> None:
    counts = sizes(60, seed)
    assert counts["eval"] >= 9  # 15 % of 60
    assert counts["test"] >= 12  # its fraction of them
    assert counts["train"] >= 30


@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_and_forty_have_sixteen_to_steer_by(seed: int) -> None:
    counts = sizes(240, seed)
    assert counts["eval"] >= 16
    assert counts["test"] >= 16


def test_where_the_fractions_give_enough_nothing_is_moved() -> None:
    items = questions(900, 7)
    plain = split_examples(items, eval_fraction=0.05, test_fraction=0.2, near_duplicates=0.7)
    assert min(plain.counts().values()) >= 16
    least = split_with_least(
        items, eval_fraction=0.05, test_fraction=0.2, near_duplicates=0.7, least=16
    )
    assert [least.part(name) for name in ("train", "eval", "test")] == [
        plain.part(name) for name in ("train", "eval", "test")
    ]
    assert not least.notes


def all_learned(item: Example) -> Example:
    """Without answers of weight 0: what is asked after one may be the beginning of another."""
    whole = [{k: v for k, v in message.items() if k != "weight"} for message in item.messages]
    return replace(item, messages=tuple(whole))


@given(items=st.lists(sided.map(all_learned), max_size=40), least=st.integers(0, 20))
def test_a_widened_split_keeps_the_promises_of_every_split(
    items: list[Example], least: int
) -> None:
    split = split_with_least(items, eval_fraction=0.1, test_fraction=0.2, least=least)
    check_promises(split, items)
    if least and not any(item.side == "eval" for item in items):
        assert len(split.eval) == 0 or len(split.eval) >= FEWEST_EVAL


def prepared(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> Prepared:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare_examples(DataSettings(file=path, **settings))


def test_with_too_few_for_eval_they_are_trained_on_and_that_is_told(tmp_path: Path) -> None:
    rows = [{"instruction": f"Name metal {i} {w}.", "output": w} for i, w in enumerate(WORDS)]
    found = prepared(tmp_path, rows, near_duplicates=1.0)
    assert found.split.counts()["eval"] == 0
    assert sum(found.split.counts().values()) == len(rows)
    (told,) = [line for line in found.notes.lines() if "no eval split" in line]
    assert "training goes on without evaluations: 15 examples are too few to hold 4 out" in told
    with pytest.raises(UsageError, match="leave none for 'eval'"):
        prepared(tmp_path, rows, least_held_out=0, eval_fraction=0.001, test_fraction=0.0)


def test_a_unit_of_many_examples_is_not_taken_to_fill_a_part(tmp_path: Path) -> None:
    """Three documents of a hundred examples each: none of them is moved to eval for 16."""
    rows = [
        {"instruction": f"q {i}", "output": "a", "source": ["a", "b", "c"][i % 3]}
        for i in range(300)
    ]
    found = prepared(tmp_path, rows, test_fraction=0.0)
    assert found.split.counts() == {"train": 300, "eval": 0, "test": 0}


def test_few_general_examples_are_held_out_all_the_same(tmp_path: Path) -> None:
    rows = [{"instruction": e.messages[0]["content"], "output": "x"} for e in questions(60, 3)]
    general = tmp_path / "general.jsonl"
    few = [{"instruction": f"Say {w}, {w[::-1]}.", "output": w} for w in WORDS]
    general.write_text("".join(json.dumps(row) + "\n" for row in few))
    found = prepared(tmp_path, rows, general=general, replay=0.1, general_fraction=0.01)
    assert found.replay_set is not None
    assert len(found.replay_set.eval) == 2  # 15 % of 15
    assert any("beyond general_fraction" in line for line in found.notes.lines())


def test_all_general_examples_may_be_held_out(tmp_path: Path) -> None:
    rows = [{"instruction": e.messages[0]["content"], "output": "x"} for e in questions(60, 3)]
    general = tmp_path / "general.jsonl"
    few = [{"instruction": f"Say {w}, {w[::-1]}.", "output": w} for w in WORDS]
    general.write_text("".join(json.dumps(row) + "\n" for row in few))
    found = prepared(tmp_path, rows, general=general, general_fraction=1.0)
    assert found.replay_set is not None
    assert found.replay_set.counts() == {"train": 0, "eval": len(WORDS), "test": 0}


def test_what_is_held_out_beyond_a_fraction_is_told_and_ready_parts_stay(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": e.messages[0]["content"], "output": "x"} for e in questions(60, 3)
    ]
    found = prepared(tmp_path, rows)
    told = [line for line in found.notes.lines() if "beyond eval_fraction" in line]
    assert len(told) == 1
    assert "few.jsonl:" in told[0]
    rows += [{"instruction": f"Ready {i}?", "output": "x", "split": "eval"} for i in range(2)]
    rows[0]["split"] = "train"
    ready = prepared(tmp_path, rows)
    assert len(ready.split.eval) == 2
    rows[-2:] = [{"instruction": f"Ready {i}?", "output": "x", "split": "test"} for i in range(2)]
    tested = prepared(tmp_path, rows)
    assert len(tested.split.test) == 2
    assert len(tested.split.eval) >= 9


def clusters(count: int, size: int, seed: int) -> list[Example]:
    """`count` questions, each `size` times in nearly the same words."""
    draw = random.Random(seed)

    def word() -> str:
        return "".join(draw.choices(string.ascii_lowercase, k=6))

    texts = [" ".join(word() for _ in range(14)) for _ in range(count)]
    return [example(f"{text} {word()}?", "x") for text in texts for _ in range(size)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("count", "size"), [(24, 2), (16, 3), (12, 4)])
def test_no_part_is_filled_at_the_cost_of_training(count: int, size: int, seed: int) -> None:
    """What is held out takes what is nearly the same out of training."""
    items = clusters(count, size, seed)
    plain, widened = (
        split_with_least(
            items, eval_fraction=0.05, test_fraction=0.2, near_duplicates=0.7, least=least
        )
        for least in (0, 16)
    )
    assert len(widened.train) >= len(plain.train) * (2 / 3) ** 2


def test_that_most_repeats_what_is_held_out_is_odd(tmp_path: Path) -> None:
    def told(items: list[Example]) -> list[Note]:
        rows = [{"instruction": e.messages[0]["content"], "output": "x"} for e in items]
        notes = prepared(tmp_path, rows).notes
        return [note for note in notes if "are left to train on" in note.text]

    (note,) = told(clusters(6, 8, 0))
    assert note.odd
    assert note.text.startswith("only 8 examples are left to train on: 32 are removed")
    assert not told(clusters(48, 1, 0))
