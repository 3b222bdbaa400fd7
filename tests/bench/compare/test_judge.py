"""A judge's preferences: both orders, its flips, its agreement with people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneserve.bench.compare.judge import compare_judged, read_labels, requests_of
from tuneserve.bench.compare.pairs import Answer, Pair
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.judge import JUDGE, ORDERS
from tuneserve.bench.measure.values import JUDGED
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings


def pair(name: str, base: str, tuned: str) -> Pair:
    first, second = (Answer(text, "", False, 0.0, "stop", 1, 1.0, 1) for text in (base, tuned))
    return Pair(Example.of_turn(name, "?", "good"), first, second)


PAIRS = [
    pair("won", "bad", "good"), pair("lost", "good", "bad"), pair("same", "x", " x "),
    pair("first", "one", "two"), pair("mute", "three", "four"), pair("won too", "bad", "good!"),
]  # fmt: skip


def said(names: tuple[str, str], pair: Pair) -> dict[str, object]:
    texts = [getattr(pair, name).text for name in names]
    if pair.example.id == "mute":
        return {"failed": "500"}
    if pair.example.id == "first":
        return {"text": "I prefer the first.\n**A**", "finish_reason": "stop", "tokens": 1}
    letter = "A" if "good" in texts[0] else "B"
    other = "B" if letter == "A" else "A"
    return {"text": f"<think>{other}?</think>{other} is worse.\n{letter}", "tokens": 1}


def judged(tmp_path: Path, labels: str = "") -> str:
    settings = BenchSettings(judge="http://x/v1", judge_model="j", judge_labels=labels)
    pairs = {pair.example.id: pair for pair in PAIRS}
    with Journal(tmp_path / "journal.jsonl", "x") as journal:
        for request in requests_of(PAIRS):
            answer = said(ORDERS[request.order], pairs[request.example.id])
            journal.add(JUDGED, JUDGE, request.id(settings), answer)
        found = compare_judged(PAIRS, settings, journal)
    assert (found.prompts, found.unread) == (5, 1)
    assert (found.tuned_better, found.base_better, found.ties, found.flips) == (2, 1, 2, 1)
    assert found.p == 1.0
    return found.describe()


def test_a_model_wins_only_if_it_is_preferred_in_both_orders(tmp_path: Path) -> None:
    assert "no labels were given" in judged(tmp_path)


def test_a_judge_that_could_not_be_read_is_no_opinion(tmp_path: Path) -> None:
    settings = BenchSettings(judge="http://x/v1", judge_model="j")
    with Journal(tmp_path / "journal.jsonl", "x") as journal:
        for request in requests_of(PAIRS[:1]):
            journal.add(JUDGED, JUDGE, request.id(settings), {"text": "Well.", "tokens": 1})
        found = compare_judged(PAIRS[:1], settings, journal)
    assert (found.prompts, found.unread) == (0, 1)
    assert found.describe() == (
        "A judge (j) was asked, but none of its answers could be read (1 prompt): nothing is said "
        "of whose are better."
    )


@pytest.mark.parametrize(
    ("text", "wins"),
    [
        ("A is worse.\nB", True),
        ("A. Wait, B", True),
        ("A or B", False),
        ("A is better than B", True),
        ("A and B are equally good", False),
    ],
)  # fmt: skip
def test_a_judge_that_names_both_has_made_no_choice(tmp_path: Path, text: str, wins: bool) -> None:
    settings = BenchSettings(judge="http://x/v1", judge_model="j")
    with Journal(tmp_path / "journal.jsonl", "x") as journal:
        for request in requests_of(PAIRS[:1]):
            name = request.id(settings)
            journal.add(JUDGED, JUDGE, name, {"text": text, "tokens": 1})
        found = compare_judged(PAIRS[:1], settings, journal)
    assert (found.prompts, found.unread) == (int(wins), int(not wins))


def test_its_agreement_with_people_is_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = {"won": "tuned", "lost": "base", "first": "tuned", "won too": "tuned", "unknown": "tie"}
    path.write_text("".join(json.dumps({"id": n, "better": b}) + "\n" for n, b in rows.items()))
    # 3 of 4 agree; by chance 2/4 * 3/4 + 1/4 * 1/4 would: kappa (0.75 - 0.4375) / 0.5625.
    assert (
        "75 % of 4 labelled prompts, kappa 0.56 (1 label without a judgement left out)."
    ) in judged(tmp_path, str(path))


def test_answers_that_are_the_same_are_not_asked_about() -> None:
    assert {request.example.id for request in requests_of(PAIRS)} == {
        "won", "lost", "first", "mute", "won too",
    }  # fmt: skip


def test_another_answer_or_judge_is_another_question() -> None:
    one, other = requests_of([pair("1", "a", "b")])[0], requests_of([pair("1", "a", "c")])[0]
    first = BenchSettings(judge="http://x/v1")
    names = {
        one.id(first), other.id(first), one.id(BenchSettings(judge="http://y/v1")),
        one.id(BenchSettings(judge="http://x/v1", judge_criteria="Short.")),
    }  # fmt: skip
    assert len(names) == 4


def test_bad_labels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "1", "better": "tuned"}\n{"id": "2"}\n{"id": "3", "better": "me"}\n')
    with pytest.raises(UsageError, match="2 bad lines") as caught:
        read_labels(str(path))
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        f"{path}:2",
        f"{path}:3",
    ]
    path.write_text('{"id": "1", "better": "tuned"}\n\n{"id": "1", "better": "base"}\n')
    with pytest.raises(UsageError, match="1 bad lines") as caught:
        read_labels(str(path))
    assert caught.value.problems == [f"{path}:3: '1' is there already: one label a prompt"]
    path.write_bytes(b'{"id": "\xff", "better": "tuned"}\n')
    with pytest.raises(UsageError, match="is no UTF-8"):
        read_labels(str(path))
    with pytest.raises(UsageError, match="can't be read"):
        read_labels(str(tmp_path / "none.jsonl"))
