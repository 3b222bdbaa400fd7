"""Thoughts told from the answer, in whatever dress a model gives them.

<think> is read as the server reads it (`tuneserve.chat.thinking`), messages in channels by the
server's own reader. Other marks stand in a table; a benchmark may name further ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS, SplitAnswer, split_thoughts
from tuneserve.errors import UsageError

CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
THOUGHT_MARKS = (
    (OPEN_THOUGHTS, CLOSE_THOUGHTS),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|thinking|>", "</|thinking|>"),
    ("<|think_start|>", "<|think_end|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
_SENTENCE_ENDS = (".", "!", "?", ":", "。", "！", "？", "：", "।", "؟")
_BEFORE = 200  # characters of text at most that may stand before the thoughts ("Sure.")


def marks_of_thoughts(think_tags: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of marks, those of the setting `think_tags` (one after the other) first."""
    if len(think_tags) % 2 or not all(think_tags):
        raise UsageError(
            "expected pairs of an opening and a closing mark",
            where="bench.think_tags",
            hint="For example: --think-tags '<plan>,</plan>'",
        )
    return [*zip(think_tags[::2], think_tags[1::2], strict=True), *THOUGHT_MARKS]


def shown_marks(think_tags: Sequence[str]) -> Iterator[str]:
    """Every mark that has to stay in a generated text, even where it is a control token."""
    yield from CHANNEL_MARKS
    for pair in marks_of_thoughts(think_tags):
        yield from pair


def split_answer(
    text: str, *, opened: bool | None = None, think_tags: Sequence[str] = ()
) -> SplitAnswer:
    """The thoughts of a generated text and the answer that is scored.

    `opened`: has the prompt opened the thoughts? None: not known. A sentence in front of the
    thoughts belongs to them: what follows them is the answer.
    """
    if "<|message|>" in text or text.lstrip().startswith("<|channel|>"):
        return _of_channels(text)
    split = _first_thoughts(text, opened, think_tags)
    while split.thoughts is not None and not split.cut_off:
        # Some models think again before they answer.
        again = _first_thoughts(split.answer, False, think_tags)
        if again.thoughts is None:
            break
        thoughts = f"{split.thoughts}\n{again.thoughts}"
        split = SplitAnswer(thoughts, again.answer, cut_off=again.cut_off)
    return split


def _first_thoughts(text: str, opened: bool | None, think_tags: Sequence[str]) -> SplitAnswer:
    split = split_thoughts(text, opened=opened)
    if split.thoughts is not None:
        return split
    for opening, closing in marks_of_thoughts(think_tags):
        before, begun, inside = text.partition(opening)
        if begun and _begins_thoughts(before, inside, closing):
            thoughts, ended, answer = inside.partition(closing)
            return SplitAnswer(f"{before}{thoughts}".strip(), answer.strip(), cut_off=not ended)
        if not begun and opened is not False and closing in text:
            thoughts, _, answer = text.partition(closing)
            return SplitAnswer(thoughts.strip(), answer.strip())
    return split


def _begins_thoughts(before: str, inside: str, closing: str) -> bool:
    """Is a mark in a text the beginning of thoughts, rather than something that it speaks of?"""
    if not before.strip(" \t\n\r\f\v"):
        return True
    sentence = before.rstrip()
    if len(before) > _BEFORE or before.count("`") % 2 or not sentence.endswith(_SENTENCE_ENDS):
        return False
    # Without an end, only thoughts that begin a line were cut off.
    return closing in inside or before.rstrip(" \t").endswith("\n")


def _of_channels(text: str) -> SplitAnswer:
    from tuneserve.serve.chat.channels import ChannelReader
    from tuneserve.serve.chat.parts import Content, Reasoning

    reader = ChannelReader(calls=False)
    parts = [*reader.feed(text), *reader.finish()]
    thoughts = "".join(part.text for part in parts if isinstance(part, Reasoning))
    answer = "".join(part.text for part in parts if isinstance(part, Content))
    cut_off = not any(isinstance(part, Content) for part in parts)
    return SplitAnswer(thoughts.strip() or None, answer.strip(), cut_off=cut_off)
