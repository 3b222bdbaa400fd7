"""What a person types into the terminal chat, or a pipe brings: texts of one or several lines.

A line that ends with a backslash goes on in the next one, and `\"\"\"` begins a text that the next
`\"\"\"` ends. Prompts are for people: stdout has answers alone wherever it is no terminal.
"""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Iterator

from tuneserve.console import show_prompt
from tuneserve.errors import UsageError

MORE = "… "
_QUOTES = '"""'


def at_terminal() -> bool:
    """Is there somebody who types?"""
    return sys.stdin.isatty()


def edit_lines() -> None:
    """Give the lines that are typed editing and history, where Python has readline."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() uses it


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """What is typed meanwhile is kept for the next prompt and not shown: it would stand amid what
    is drawn, and a line break would move it."""
    if not at_terminal():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class Typed(str):
    """A text; `quoted`: it was put between quotes, so that it is no command."""

    quoted = False


def read_text(prompt: str) -> Typed | None:
    """The next text, None at the end of the input. Raises UsageError for what is no UTF-8, and
    for quotes that nothing ends."""
    line = _read_line(prompt)
    if line is None:
        return None
    if line.lstrip().startswith(_QUOTES):
        return _quoted(line.lstrip()[len(_QUOTES) :])
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(_read_line(MORE) or "")
    return Typed("\n".join(lines).strip())


def _quoted(first: str) -> Typed:
    lines = [first]
    while not lines[-1].rstrip().endswith(_QUOTES):
        following = _read_line(MORE)
        if following is None:
            raise UsageError(f"the input ends in a text that {_QUOTES} began", where="stdin")
        lines.append(following)
    lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
    text = Typed("\n".join(lines).strip("\n"))
    text.quoted = True
    return text


def _read_line(prompt: str) -> str | None:
    try:
        line = _typed_line(prompt)
        # Python lets bytes that are no UTF-8 through in some locales.
        return None if line is None else line.encode().decode()
    except UnicodeError as error:
        raise UsageError("is no UTF-8", where="stdin") from error


def _typed_line(prompt: str) -> str | None:
    if at_terminal() and sys.stdout.isatty():
        try:
            return input(prompt)
        except EOFError:
            return None
    if at_terminal():
        show_prompt(prompt)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None
