"""What JSON Schema's `pattern` and `format` ask of a text, as regular expressions in Lark that
match the text as a whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuneserve.serve.chat.json_schema import FORMATS

ANY = r"(.|\n)"
_HEX = "[0-9a-fA-F]"
_FORMATS = {**FORMATS, "uuid": f"{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"}
_CLASS = r"\[\^?\]?(?:\\.|[^\]\\])*\]"


def in_lark(regex: str) -> str:
    """A regular expression as it stands between slashes."""
    return re.sub(r"\\(.)|(/)|(\n)|(\r)", _character, regex, flags=re.DOTALL)


def _character(match: re.Match[str]) -> str:
    escaped, slash, newline, _ = match.groups()
    if escaped is not None:
        return "\\n" if escaped == "\n" else f"\\{escaped}"
    return "\\/" if slash else "\\n" if newline else "\\r"


def pattern_of(schema: Mapping[str, Any], keyword: str) -> str | None:
    """The expression of a `pattern` or a `format`; None if it can't be written as one."""
    if keyword == "format":
        known = _FORMATS.get(str(schema["format"]))
        return f"(?:{in_lark(known)})" if known else None
    pattern = schema["pattern"]
    return _whole(pattern) if isinstance(pattern, str) else None


def _whole(pattern: str) -> str | None:
    begins = pattern.startswith("^")
    ends = re.search(r"(?<!\\)(?:\\\\)*\$\Z", pattern) is not None
    body = pattern[begins : len(pattern) - ends]
    if re.search("[\ud800-\udfff]", body) or re.search(r"\\[^\\dDwWsSnrt.^$*+?()\[\]{}|/-]", body):
        return None
    outside = re.sub(rf"\\.|{_CLASS}", "x", body)
    if re.search(r"[\^$]|\(\?(?!:)", outside):
        return None
    if (begins or ends) and _has_ways(outside):
        return None
    any_text = f"{ANY}*"
    return f"{'' if begins else any_text}(?:{in_lark(body)}){'' if ends else any_text}"


def _has_ways(outside: str) -> bool:
    """Are there alternatives, which an anchor is in only one of?"""
    depth = 0
    for one in outside:
        depth += (one == "(") - (one == ")")
        if one == "|" and depth <= 0:
            return True
    return False
