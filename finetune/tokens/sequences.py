"""Which sequences are trained for an example: what its text brings that is not text, one sequence
per answer where a template needs it, and pieces of long texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuneserve.chat.examples import CONTINUES, Example
from tuneserve.chat.prompt import END_TOKENS, EncodingError, FastTokenizer, TokenSpan
from tuneserve.finetune.data.notes import Notes


def without_end_tokens(example: Example, tokenizer: FastTokenizer, notes: Notes) -> Example:
    """The example without the end tokens that its data brings: the template writes them."""
    messages = [
        _without_end(message, tokenizer, notes, example.where)
        if message["role"] == "assistant"
        else message
        for message in example.messages
    ]
    if not (messages[-1].get("content") or "").strip() and not messages[-1].get("tool_calls"):
        raise EncodingError("the answer is nothing but an end token", where=example.where)
    return replace(example, messages=tuple(messages))


def _without_end(
    message: Mapping[str, Any], tokenizer: FastTokenizer, notes: Notes, place: str
) -> Mapping[str, Any]:
    text = (message.get("content") or "").rstrip()
    end = next((end for end in tokenizer.end_texts | END_TOKENS if text.endswith(end)), None)
    # HTML strikes text out so: <s>old</s>
    if end is None or (end == "</s>" and "<s>" in text.lstrip()[1:]):
        return message
    if end not in tokenizer.end_texts:
        notes.add(f"an answer ends with {end}, of other models: it is trained as text", place)
        return message
    notes.add(f"an answer ends with {end}: taken out, since the template writes the end", place)
    shorter = {**message, "content": text.removesuffix(end).rstrip(" ")}
    return _without_end(shorter, tokenizer, notes, place)  # some data has two


def check_special_tokens(
    example: Example, tokenizer: FastTokenizer, wanted: str, notes: Notes
) -> None:
    """Note the special tokens that the example's text spells out, or raise EncodingError if they
    are not `wanted` ([data] special_tokens) or can't be had so."""
    found = [
        token
        for text in strings([example.messages, example.tools])
        for token in tokenizer.all_special.found(text)
    ]
    if not found:
        return
    names = ", ".join(dict.fromkeys(found))
    if wanted == "refuse":
        raise EncodingError(f"its text spells out special tokens: {names}", where=example.where)
    if wanted == "control":
        notes.add(
            "special tokens in texts, trained as the tokens they spell", example.where, odd=False
        )
        return
    if not tokenizer.special_tokens.found(found[0]):
        raise EncodingError(
            f"its text spells out special tokens ({names}), which this vocabulary can't tell from "
            "text: take them out, or set special_tokens to control",
            where=example.where,
        )
    if example.prompt:
        notes.add("special tokens in texts, trained as plain text", example.where)
    else:
        notes.add(
            "special tokens in a text without a prompt, trained as plain text: if it is a "
            "rendered conversation, give its messages, or set special_tokens to control",
            example.where,
        )


def per_answer(example: Example, untaught: Sequence[int]) -> list[Example]:
    """The example, and one more for each of its answers `untaught` that can't be trained where it
    stands: the conversation up to it. Together they train each answer once, but for one that
    nothing stands before: no prompt leads to it."""
    if not untaught:
        return [example]
    whole = replace(example, messages=_as_context(example.messages, untaught))
    return [
        *(
            replace(
                example,
                id=f"{example.id}#{place}",
                messages=(
                    *_as_context(example.messages[:place], range(place)),
                    example.messages[place],
                ),
            )
            for place in untaught
            if place > 0
        ),
        whole,
    ]


def pieces(example: Example, tokens: Sequence[TokenSpan], longest: int) -> list[Example]:
    """A text without a prompt as texts of at most `longest` tokens, cut at the end of a line, a
    sentence or a word where one is near."""
    text = example.reference
    cuts = list(_cuts(text, tokens, longest))
    bounds = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
    return [
        replace(
            example,
            id=example.id if start == 0 else f"{example.id}#{number}",
            messages=(
                {
                    **example.messages[-1],
                    "content": text[start:end],
                    **({CONTINUES: True} if end < len(text) else {}),
                },
            ),
        )
        for number, (start, end) in enumerate(bounds)
    ]


def _cuts(text: str, tokens: Sequence[TokenSpan], longest: int) -> Iterator[int]:
    place = 0
    while len(tokens) - place > longest:
        end = tokens[place + longest - 1].end
        # At least half of what there is room for, or there would be many short pieces.
        least = tokens[place + longest // 2].start
        found = (_last_end(sign, text, least, end) for sign in _BREAKS)
        cut = next(filter(None, found), tokens[place + longest - 1].start)
        yield cut
        place = next(n for n in range(place, len(tokens)) if tokens[n].end > cut)


_BREAKS = (re.compile(r"\n+"), re.compile(r"[.!?。！？।]\s*"), re.compile(r"\s"))


def _last_end(sign: re.Pattern[str], text: str, least: int, end: int) -> int:
    found = 0
    for match in sign.finditer(text, least, end):
        found = match.end()
    return found


def _as_context(
    messages: Sequence[Mapping[str, Any]], places: Sequence[int]
) -> tuple[Mapping[str, Any], ...]:
    """Messages of which the assistant's at `places` are context only."""
    wanted = frozenset(places)
    return tuple(
        {**message, "weight": 0} if n in wanted and message["role"] == "assistant" else message
        for n, message in enumerate(messages)
    )


def strings(value: Any) -> Iterator[str]:
    """All texts in messages and tools."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from strings(inner)
