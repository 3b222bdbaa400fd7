"""Text out of bytes: UTF-8, what a byte order mark names, and Windows' western encoding."""

from __future__ import annotations

import codecs
import re
import string

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with UTF-16's mark
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MARK_LENGTH = 4
_UNMARKED = {b"\1\0\1\0": "utf-16-le", b"\0\1\0\1": "utf-16-be"}
# In western languages, letters beyond ASCII are few and seldom stand side by side; in a text that
# another encoding wrote (Cyrillic, Chinese) they do, or signs stand inside of words.
_LARGEST_SHARE = 0.3
_RUN = re.compile(rb"[\x80-\xff]{4}")
_SIGN_IN_WORD = re.compile(
    r"[^\W\d_][\u00a1-\u00b6\u00b8-\u00bf\u00d7\u00f7\u2020-\u2022\u2030\u20ac][^\W\d_]"
)


def encoding_by_mark(start: bytes) -> str | None:
    """The encoding that a file's first bytes (`MARK_LENGTH` of them) name, or None."""
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    # Two letters of ASCII in UTF-16, whose mark was left out.
    return marked or _UNMARKED.get(bytes(map(bool, start[:MARK_LENGTH])))


def decode(data: bytes) -> tuple[str, str | None]:
    """The text, and the name of the encoding where it is not UTF-8.

    Raises UnicodeDecodeError if it is neither UTF-8 nor, going by its mark or its letters, another
    encoding that is known here.
    """
    named = encoding_by_mark(data[:MARK_LENGTH])
    if named is not None:
        return data.decode(named), None if named == "utf-8-sig" else named.upper()
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        text = _western(data)
        if text is None:
            raise
        return text, "Windows-1252"


def _western(data: bytes) -> str | None:
    high = len(data) - len(data.translate(None, bytes(range(128, 256))))
    letters = len(data) - len(data.translate(None, string.ascii_letters.encode())) + high
    if _RUN.search(data) or high > _LARGEST_SHARE * letters:
        return None
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    return None if _SIGN_IN_WORD.search(text) else text


def encoding_note(encoding: str) -> str:
    """What is told of a file that is not UTF-8."""
    return f"the file is not UTF-8: it was recognised as {encoding}"
