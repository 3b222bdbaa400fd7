"""Regular expressions of others, in a process of their own: one JSON object a line in, one out.

Started as a script, with the standard library alone. Each line in, {"do", "pattern", "texts" by
name, "more" (further arguments)}, is answered by {"found"}, a value for each text by its name, or
by {"failed"}.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

_MOST = 64
"""Different captures that are told; whether there is more than one is all that is asked."""


def captures(pattern: re.Pattern[str], text: str) -> list[str]:
    """What the first group (or all of a pattern without one) matches, what differs, the last
    first."""
    group = 1 if pattern.groups else 0
    different: dict[str, None] = {}
    for match in pattern.finditer(text):
        found = match.group(group) or ""
        different.pop(found, None)
        different[found] = None
    return list(different)[: -_MOST - 1 : -1]


def find(pattern: re.Pattern[str], text: str, number: int) -> Any:
    """The match of that number (from behind, if negative) as re.findall has it: a text, or a list
    of several groups' texts; None where there is none."""
    matches = pattern.findall(text)
    return matches[number] if -len(matches) <= number < len(matches) else None


def remove(pattern: re.Pattern[str], text: str) -> str:
    """The text without what matches."""
    return pattern.sub("", text)


DO: dict[str, Callable[..., Any]] = {"captures": captures, "find": find, "remove": remove}


def main() -> None:
    print("{}", flush=True)
    for line in sys.stdin:
        try:
            asked = json.loads(line)
            do, pattern = DO[asked["do"]], re.compile(asked["pattern"])
            texts, more = asked["texts"], asked["more"]
            reply = {"found": {name: do(pattern, text, *more) for name, text in texts.items()}}
        except Exception as error:
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
            continue
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
