"""Where an answer stands is told by its text alone, however the tokens cut it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuneserve.serve.engine.thinking import Stage, ThinkingState

WORDS = st.text(alphabet="ab <>/thinktool_c", max_size=30)


def pieces(text: str, data: st.DataObject) -> list[bytes]:
    rest, cut = text.encode(), []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        cut.append(rest[:size])
        rest = rest[size:]
    return cut


@given(WORDS, st.booleans(), st.data())
def test_a_grammar_holds_after_the_thoughts(
    thought: str, opened: bool, data: st.DataObject
) -> None:
    thought = thought.replace("</think>", "")
    text = f"{'' if opened else '<think>'}{thought}</think>"
    if "</think>" in text[: -len("</think>")]:
        return
    stages = ThinkingState("open" if opened else "may")
    *before, last = pieces(text, data)
    for piece in before:
        stages.see(piece)
        assert not stages.bounded
    stages.see(last)
    assert stages.bounded


@given(st.text(alphabet="ab <tool_call", max_size=30), st.sampled_from(["none", "may"]), st.data())
def test_a_grammar_behind_a_mark_waits_for_it(text: str, left: str, data: st.DataObject) -> None:
    stages = ThinkingState("may" if left == "may" else "none", mark="<tool_call>")
    for piece in pieces(text, data):
        stages.see(piece)
    assert stages.bounded == ("<tool_call>" in text)
    for piece in pieces("<tool_call>", data):
        stages.see(piece)
    assert stages.bounded


def test_a_mark_in_the_thoughts_is_none() -> None:
    stages = ThinkingState("open", mark="<tool_call>")
    stages.see(b"I might <tool_call> it")
    assert stages.stage is Stage.THOUGHTS
    stages.see(b"</think><tool_call>")
    assert stages.bounded


def test_a_budget_counts_tokens_of_thoughts_alone() -> None:
    plain = ThinkingState("may", budget=2)
    assert [plain.see(piece) for piece in (b"The", b" answer", b" is", b" 4.")] == [False] * 4
    opened = ThinkingState("may", budget=2)
    assert [opened.see(piece) for piece in (b"<think>", b"a", b"b", b"c")] == [
        False, False, True, True,
    ]  # fmt: skip


def test_what_reaches_beyond_a_mark_is_cut() -> None:
    thoughts = ThinkingState("open")
    thoughts.see(b"so </th")
    assert thoughts.cut(b"ink>\n\n") == b"ink>\n\n"
    assert thoughts.cut(b'ink>{"') == b"ink>"
    call = ThinkingState("none", mark="<tool_call>")
    assert call.cut(b'<tool_call>{"') == b"<tool_call>"
    assert ThinkingState.begins_thought(b"<th") == "ink>"
    assert ThinkingState.begins_thought(b"<think>\n") == ""
    assert ThinkingState.begins_thought(b"The") is None
