"""The grammar of calls of tools, in Lark, made of the form in which the template writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tuneserve.chat.argument_styles import MARK
from tuneserve.chat.call_formats import CALL_ID, PYTHON_TAG, CallForm

BLANK = "BLANK: /[ \\n]/"
_FEW = "[ \\n]{0,5}"
WriteMark = Callable[[str], str]
"""A mark in Lark: its own token or its characters; '' for one that ends the answer."""


def call_rules(
    form: CallForm, functions: Mapping[str, str], mark: WriteMark, *, several: bool, opened: bool
) -> list[str]:
    """Lark lines whose rule `calls` is one call, or `several`, of the functions.

    `functions`: the rule of the arguments of each name. `opened`: text may come first, so the rule
    begins behind the form's first trigger; for a form without any it allows text that is no call.
    """
    several = several and form.several
    bodies = " | ".join(_body(form, name, rule, mark) for name, rule in functions.items())
    lines = [BLANK, f"body: {bodies}"]
    if form.in_channels:
        return [*lines, *_in_channels(mark, opened=opened)]
    if form.text_name:
        return [*lines, *_addressed(form, mark, several=several, opened=opened)]
    begin, end = _written(form.begin, mark), _written(form.end, mark)
    lines += [f"rest: BLANK? body BLANK? {end}", f"call: {begin} rest"]
    if form.section_mark:
        # Command R writes each call of its list in a line of its own.
        opening, closing = (rf"/\[{_FEW}/", rf"/{_FEW}\]/") if form.in_list else ("", "")
        separator = f"/ ?,{_FEW}/" if form.in_list else "BLANK?"
        more = f" ({separator} call)*" if several else ""
        ended = _written(form.section_end_mark, mark)
        # A template may leave the end away where there is only one call.
        ended = f"(BLANK? {ended})?" if ended else ""
        lines.append(f"listed: BLANK? {opening} call{more} {closing} {ended}")
        return [*lines, f"calls: {'' if opened else _written(form.section_mark, mark)} listed"]
    more = " (BLANK? call)*" if several else ""
    if form.triggers:
        return [*lines, f"calls: {'rest' if opened else 'call'}{more}"]
    tag = mark(PYTHON_TAG)
    # A tag that is no token of the vocabulary is nothing that the model knows.
    first = f"({tag})? call" if tag.startswith("<[") else "call"
    if not opened:
        return [*lines, f"calls: {first}{more}"]
    names = "|".join(map(_escaped, functions))
    head = rf'\s*\{{\s*"{form.name_key}"\s*:\s*"({names})"'
    return [*lines, f"FREE: /(.|\\n)*/ & ~/{head}(.|\\n)*/", f"calls: {first}{more} | FREE"]


def _body(form: CallForm, name: str, rule: str, mark: WriteMark) -> str:
    text = form.head + name + form.middle
    if not form.is_object:
        if form.in_channels:
            return f"{_written(name, mark)} channel {rule}"
        return f"{_written(text.lstrip(), mark)} {rule}"
    return f"{_written(text, mark, loose=True)} {rule} /{_tail(form.tail)}/"


def _tail(text: str) -> str:
    """What closes a call's object; what models do not write of it is the id."""
    keys = text.removesuffix("}")
    optional = f"({_pattern(keys, loose=True)})?" if keys.strip() else ""
    return rf"{optional} ?\}}"


def _addressed(form: CallForm, mark: WriteMark, *, several: bool, opened: bool) -> list[str]:
    """Functionary: the prompt has the first beginning; a text is a message too."""
    begin, text = _pattern(form.begin, loose=False), r"(.|\n)*"
    more = f"body ({_written(form.begin, mark)} body)*" if several else "body"
    if not opened:
        return [f"calls: {more}"]
    return [
        f"FREE: /{text}/ & ~/{text}{begin}{text}/",
        f"UP: /{text}{begin}/ & ~/{text}{begin}(.|\\n)+/",
        f"calls: {more} | {_written(form.text_name + form.middle, mark)} (FREE | UP {more})",
    ]


def _in_channels(mark: WriteMark, *, opened: bool) -> list[str]:
    """gpt-oss: the receiver of a message stands before its channel or behind it, and thoughts, a
    message of their own, may come first."""
    start, end = mark("<|start|>"), mark("<|end|>")
    channel, message, constrain = (mark(f"<|{n}|>") for n in ("channel", "message", "constrain"))
    # Where the marks are tokens, text ends at any of them.
    text = r"(.|\n)*" if end.startswith("<[") else "[^<]*"
    return [
        f'channel: ({channel} "commentary")? (BLANK? ({constrain})? "json")? BLANK? {message}',
        f"TEXT: /{text}/",
        f'thoughts: {channel} "analysis" {message} TEXT {end} {start} "assistant"',
        f"to: / ?to=functions\\./ | {channel} /commentary to=functions\\./",
        f"calls: {'body' if opened else 'thoughts? to body'}",
    ]


def _written(text: str, mark: WriteMark, *, loose: bool = False) -> str:
    """A text in Lark. `loose`: it is JSON, in which white space may be left away."""
    terms = [
        mark(part) if MARK.fullmatch(part) else f"/{_pattern(part, loose=loose)}/"
        for part in re.split(f"({MARK.pattern})", text)
        if part
    ]
    return " ".join(term for term in terms if term)


def _pattern(text: str, *, loose: bool) -> str:
    escaped = _escaped("".join(text.split()) if loose else text)
    spaced = re.sub(r"(\\\{|,|:)", r"\1 ?", escaped) if loose else escaped
    return spaced.replace(CALL_ID, "[A-Za-z0-9_-]{1,32}").replace("\n", "\\n")


def _escaped(text: str) -> str:
    return re.sub(r"([.^$*+?()\[\]{}|\\/])", r"\\\1", text)
