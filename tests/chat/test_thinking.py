"""Thoughts and answer come apart alike in example files, streams, grammars and scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.compare.answers import Asked, read_responses
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.values import ANSWER
from tuneserve.bench.tasks.tasks import held_out_task
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample
from tuneserve.chat.thinking import (
    CLOSE_THOUGHTS,
    SplitAnswer,
    Thoughts,
    ThoughtStream,
    split_thoughts,
    thoughts_left,
)
from tuneserve.finetune.data.formats import BadRecord, parse_record
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.parts import (
    Content,
    Reasoning,
)
from tuneserve.serve.engine.thinking import Stage, ThinkingState
from tuneserve.settings import BenchSettings

texts = st.text(alphabet=st.characters(exclude_characters="<>"))
marked = st.text(alphabet="ab <>/\n\u00a0").map(
    lambda text: text.replace("<>", "<think>").replace("</", "</think>")
)


@dataclass(frozen=True)
class Case:
    """What a model wrote after a prompt that `left` its thoughts so, and what that is made of."""

    left: Thoughts
    text: str
    thoughts: str | None
    answer: str
    cut_off: bool = False


CASES = {
    "no mark": Case("may", "Two.", None, "Two."),
    "no mark, white space": Case("may", " \nTwo. \n", None, " \nTwo. \n"),
    "both marks": Case("may", "<think>\nHm.\n</think>\n\nTwo.", "Hm.", "Two."),
    "opened by the prompt": Case("open", "Hm.\n</think>\n\nTwo.", "Hm.", "Two."),
    "closed at once": Case("open", "\n</think>\n\nTwo.", "", "Two."),
    "opened by the prompt and once more": Case("open", "<think>\nHm.</think>Two.", "Hm.", "Two."),
    "a lone closing mark": Case("may", "Hm.</think>Two.", None, "Hm.</think>Two."),
    "never closed": Case("may", "<think>\nHm.", "Hm.", "", cut_off=True),
    "opened by the prompt, never closed": Case("open", "Hm. \n", "Hm.", "", cut_off=True),
    "half a closing mark": Case("open", "Hm.\n</thi", "Hm.\n</thi", "", cut_off=True),
    "half an opening mark": Case("may", "<thi", None, "<thi"),
    "half an opening mark in thoughts": Case("open", " <thi", "<thi", "", cut_off=True),
    "no thoughts in the marks": Case("may", "<think>\n\n</think>\n\nTwo.", "", "Two."),
    "two blocks": Case(
        "may", "<think>a</think>\n<think>b</think>Two.", "a", "<think>b</think>Two."
    ),
    "closed twice": Case("may", "<think>a</think>b</think>c", "a", "b</think>c"),
    "marks in the answer": Case("may", "Write <think>a</think>.", None, "Write <think>a</think>."),
    "marks in thoughts": Case("open", "Write <think>a</think> so.", "Write <think>a", "so."),
    "white space around the marks": Case(
        "may", "\n <think>\t Hm. \r\n</think> \n  Two.\n", "Hm.", "Two.\n"
    ),
    "other white space": Case("may", "\u00a0<think>a</think>b", None, "\u00a0<think>a</think>b"),
    "other white space in thoughts": Case("open", "\u00a0a</think>\u3000b", "\u00a0a", "\u3000b"),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@every_case
def test_a_whole_text(case: Case) -> None:
    split = split_thoughts(case.text, opened=case.left == "open")
    assert split == SplitAnswer(case.thoughts, case.answer, case.cut_off)


@every_case
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_stream(case: Case, size: int) -> None:
    stream = ThoughtStream(case.left)
    found = [part for piece in pieces(case.text, size) for part in stream.feed(piece)]
    found += stream.finish()
    assert "".join(text for thinks, text in found if thinks) == (case.thoughts or "")
    assert "".join(text for thinks, text in found if not thinks) == case.answer
    kinds = [thinks for thinks, _ in found]
    assert kinds == sorted(kinds, reverse=True)


@every_case
@pytest.mark.parametrize("size", [1, 100])
def test_what_the_server_hands_out(case: Case, size: int) -> None:
    reader = PartReader(case.left)
    parts = [part for piece in pieces(case.text, size) for part in reader.feed(piece)]
    parts += reader.finish()
    thoughts = "".join(part.text for part in parts if isinstance(part, Reasoning))
    answer = "".join(part.text for part in parts if isinstance(part, Content))
    assert (thoughts, answer) == (case.thoughts or "", case.answer)


@every_case
def test_where_a_grammar_begins(case: Case) -> None:
    stages = ThinkingState(case.left)
    rest = case.text.encode()
    while rest and stages.stage is not Stage.ANSWER:
        stages.see(rest[:1])
        rest = rest[1:]
    assert (stages.stage is Stage.THOUGHTS) == case.cut_off
    if case.thoughts is not None and not case.cut_off:
        # Whether a text has thoughts shows in its first bytes, and their end in the last one.
        assert rest.decode().lstrip(" \t\r\n") == case.answer
        assert stages.bounded


@every_case
def test_what_the_benchmark_scores(case: Case, tmp_path: Path) -> None:
    example = Example.of_turn("1", "1+1?", "Two.")
    item = EncodedExample(example, [1], [2], opens_thought=case.left == "open")
    asked = Asked(held_out_task("sums", [example], BenchSettings()), [item])
    with Journal(tmp_path / "journal", "x") as journal:
        value = {"text": case.text, "finish_reason": "stop", "tokens": 3}
        journal.add(ANSWER, "tuned", "1", value)
        (response,) = read_responses(journal, "tuned", asked)
    thoughts, answer = case.thoughts or "", case.answer
    if case is CASES["two blocks"]:
        # Whoever thinks again before answering is scored on what follows.
        thoughts, answer = "a\nb", "Two."
    assert (response.thought, response.text, response.cut_off) == (
        thoughts.strip(), answer.strip(), case.cut_off
    )  # fmt: skip


@every_case
def test_an_example_file(case: Case) -> None:
    """There the prompt is not known, so a lone closing mark tells of one that opened thoughts."""
    known = split_thoughts(case.text)
    if case.left == "may" and case.text != "Hm.</think>Two.":
        assert known == SplitAnswer(case.thoughts, case.answer, case.cut_off)
    record = {"instruction": "1+1?", "output": case.text}
    if known.cut_off:
        with pytest.raises(BadRecord, match="never closes"):
            parse_record(record)
        return
    answer = parse_record(record).messages[-1]
    thoughts = known.thoughts or None  # thoughts that are empty are none
    assert (answer.get("reasoning_content"), answer["content"]) == (thoughts, known.answer)


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("Hm.\n</think>\n\nTwo.", "Hm.", "Two."),
        ("Write <think>a</think> so.", None, "Write <think>a</think> so."),
        ("See </think> and <think>.", "See", "and <think>."),
    ],
)
def test_a_text_whose_prompt_is_not_known(text: str, thoughts: str | None, answer: str) -> None:
    assert split_thoughts(text) == SplitAnswer(thoughts, answer)


def test_a_text_without_a_prompt_is_learned_as_it_stands() -> None:
    text = "<think>a</think> How HTML is written."
    (message,) = parse_record({"text": text}).messages
    assert message == {"role": "assistant", "content": text}


@given(marked, st.sampled_from(["none", "may", "open"]), st.data())
def test_a_stream_splits_as_the_whole_however_it_is_cut(
    text: str, left: Thoughts, data: st.DataObject
) -> None:
    whole = split_thoughts(text, opened=left == "open")
    if left == "none":
        whole = SplitAnswer(None, text)
    stream, found, rest = ThoughtStream(left), [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += stream.feed(rest[:size])
        rest = rest[size:]
    found += stream.finish()
    assert "".join(piece for thinks, piece in found if thinks) == (whole.thoughts or "")
    assert "".join(piece for thinks, piece in found if not thinks) == whole.answer


@given(texts, texts)
def test_a_closed_thought_is_split_off(thought: str, answer: str) -> None:
    split = split_thoughts(f"<think>{thought}</think>{answer}")
    assert (split.thoughts or "").strip() == thought.strip()
    assert (split.answer.strip(), split.cut_off) == (answer.strip(), False)
    begun_in_the_prompt = split_thoughts(f"{thought}</think>{answer}", opened=True)
    assert begun_in_the_prompt == split


@given(texts)
def test_a_thought_that_never_ends_leaves_no_answer(thought: str) -> None:
    for split in (split_thoughts(f"<think>{thought}"), split_thoughts(thought, opened=True)):
        assert (split.thoughts or "").strip() == thought.strip()
        assert (split.answer, split.cut_off) == ("", True)


@given(texts)
def test_a_text_without_thought_is_the_answer(text: str) -> None:
    assert split_thoughts(text) == SplitAnswer(None, text)


def test_a_thought_mentioned_later_is_no_thought() -> None:
    assert split_thoughts("I use <think> tags.").answer == "I use <think> tags."


@pytest.mark.parametrize(
    ("prompt", "begun", "left"),
    [
        ("[assistant]", "", "may"),
        ("[assistant]<think>\n", "", "open"),
        ("[assistant]<think>\n\n</think>\n\n", "", "none"),
        ("[assistant]", "I", "none"),
        ("[assistant]", "I use <think> tags", "none"),
        ("[assistant]", "<think>\nLet me", "open"),
        ("[assistant]", "<think>a</think>", "none"),
        ("[assistant]<think>\n", "Let me", "open"),
        ("[assistant]<think>\n", f"Hm.{CLOSE_THOUGHTS}It", "none"),
    ],
)
def test_what_a_prompt_leaves_of_the_thoughts(prompt: str, begun: str, left: str) -> None:
    assert thoughts_left(prompt, begun) == left


def test_a_template_that_knows_no_thoughts_leaves_none() -> None:
    assert thoughts_left("[assistant]", thinks=False) == "none"
