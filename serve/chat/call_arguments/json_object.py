"""Arguments that are a JSON object: passed on as they are."""

from __future__ import annotations


class ObjectEnd:
    """Looks for the end of a JSON object in pieces of text."""

    def __init__(self, depth: int = 0) -> None:
        """`depth`: how many braces are open already."""
        self._depth = depth
        self._in_string = self._escaped = False

    def find(self, text: str) -> int | None:
        """The place behind the object's last brace; None if it goes on."""
        for place, character in enumerate(text, start=1):
            if self._escaped:
                self._escaped = False
            elif self._in_string and character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = not self._in_string
            elif self._in_string:
                continue
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place
        return None


class ObjectReader:
    """Reads a JSON object."""

    def __init__(self) -> None:
        self._end = ObjectEnd()

    def feed(self, text: str) -> tuple[str, str, bool]:
        end = self._end.find(text)
        return text[:end], "" if end is None else text[end:], end is not None
