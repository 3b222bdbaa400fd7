"""Thoughts in every dress are told from the answer."""

from __future__ import annotations

import pytest

from tuneserve.bench.tasks.thoughts import split_answer
from tuneserve.errors import UsageError

CHANNELS = (
    "<|channel|>analysis<|message|>Capital?<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Paris"
)


@pytest.mark.parametrize(
    ("text", "thoughts", "answer", "cut_off"),
    [
        ("Paris", None, "Paris", False),
        ("<think>Hm.</think>Paris", "Hm.", "Paris", False),
        ("<thinking>\nHm.\n</thinking>\n\nParis", "Hm.", "Paris", False),
        ("[THINK]Hm.[/THINK]Paris", "Hm.", "Paris", False),
        ("◁think▷Hm.◁/think▷Paris", "Hm.", "Paris", False),
        ("<|START_THINKING|>Hm.<|END_THINKING|>Paris", "Hm.", "Paris", False),
        ("Sure. <think>Hm.</think> Paris", "Sure. Hm.", "Paris", False),
        (CHANNELS, "Capital?", "Paris", False),
        ("<|channel|>analysis<|message|>Capital? Let me", "Capital? Let me", "", True),
        ("<|channel|>final<|message|>Paris<|return|>", None, "Paris", False),
        ("<think>Hm. It", "Hm. It", "", True),
        ("[THINK]Hm. It", "Hm. It", "", True),
        ("Sure.\n<thinking>Hm. It", "Sure.\nHm. It", "", True),
        ("The tag <think> opens thoughts.", None, "The tag <think> opens thoughts.", False),
        ("Use `<thinking>` and `</thinking>`.", None, "Use `<thinking>` and `</thinking>`.", False),
        ("Write <think>a</think>.", None, "Write <think>a</think>.", False),
        ("<think>Hm.</think>\n<think>So.</think>Paris", "Hm.\nSo.", "Paris", False),
        ("<think>Hm.</think><think>So", "Hm.\nSo", "", True),
        ("Hm.</thinking>Paris", "Hm.", "Paris", False),
    ],
)  # fmt: skip
def test_the_answer_is_what_follows(
    text: str, thoughts: str | None, answer: str, cut_off: bool
) -> None:
    split = split_answer(text)
    assert (split.thoughts, split.answer, split.cut_off) == (thoughts, answer, cut_off)


def test_a_benchmark_may_name_marks() -> None:
    assert split_answer("<plan>x</plan>y", think_tags=("<plan>", "</plan>")).answer == "y"
    with pytest.raises(UsageError, match="pairs"):
        split_answer("<plan>x</plan>y", think_tags=("<plan>",))
