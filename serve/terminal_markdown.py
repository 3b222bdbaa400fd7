"""An answer on a terminal, as Markdown: whole blocks stay, the last one is drawn anew as it grows.

What a model wrote may be anything. What a terminal would obey or hide is written out (see
tuneserve.visible), HTML is text, links show where they lead, and line breaks stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tuneserve.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

REDRAWN_SECONDS = 0.08
_FENCES = ("```", "~~~")
# They would act on what `visible` has seen (`&#27;`), hide where something leads, or vanish.
_LEFT_OUT = ["entity", "image", "reference"]


def as_markdown(text: str) -> RenderableType:
    """A text of a model's for rich to print."""
    from markdown_it import MarkdownIt
    from rich.markdown import Markdown

    parser = MarkdownIt("commonmark", {"html": False})
    parser.enable(["strikethrough", "table"]).disable(_LEFT_OUT)
    shown = Markdown("", hyperlinks=False)
    shown.parsed = parser.parse(visible(text))
    _keep_breaks(shown.parsed)
    return shown


def _keep_breaks(tokens: Iterable[Any]) -> None:
    for token in tokens:
        token.content = visible(token.content)
        if token.type == "softbreak":
            token.type = "hardbreak"
        _keep_breaks(token.children or ())


class MarkdownAnswer:
    """Prints the pieces of an answer as they come; a context manager, which ends it."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._text = ""
        self._printed = False
        self._drawn = 0.0
        self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> MarkdownAnswer:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._text.strip() or not self._printed:
            self._print(self._text)

    def add(self, piece: str) -> None:
        """Show one more piece."""
        self._text += piece
        if "\n" in piece:
            self._print_whole_blocks()
        now = time.monotonic()
        if now - self._drawn >= REDRAWN_SECONDS:
            self._drawn = now
            self._live.update(_End(as_markdown(self._text)), refresh=True)

    def _print_whole_blocks(self) -> None:
        end = whole_blocks(self._text)
        if end:
            self._live.update("", refresh=True)
            self._print(self._text[:end])
            self._text = self._text[end:]

    def _print(self, text: str) -> None:
        if self._printed:
            self._console.print()
        self._console.print(as_markdown(text))
        self._printed = True


def whole_blocks(text: str) -> int:
    """Where the last block of a text that still grows begins: behind a blank line that is in no
    code block, and before a line that is not indented, which would belong to a list."""
    end, place, fence, blank = 0, 0, "", False
    for line in text.splitlines(keepends=True):
        mark = line.strip()[:3]
        if not fence and blank and not line[0].isspace():
            end = place
        if fence:
            fence = "" if mark == fence else fence
        elif mark in _FENCES:
            fence = mark
        blank = not fence and not line.strip()
        place += len(line)
    return end


class _End:
    """The last lines of what is shown, as many as the terminal has."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        lines = console.render_lines(self._shown, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()
