"""What a terminal showed, as an SVG that moves: no script, no font and nothing else from elsewhere.

A frame is the screen at one moment. The frames stand below each other in one strip, which CSS moves
by a frame's height; lines that stay the same are in the file once. Who asks the system for less
motion sees the last frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

Cell = tuple[str, str]
"""A run of characters of one style: (text, style); the style is a class of the SVG, or ''."""

CELL_WIDTH = 8.4
LINE_HEIGHT = 19
FONT_SIZE = 14
_MARGIN = 16
_COLOURS = {
    "green": "#7fd494", "red": "#ff9a9a", "cyan": "#5cc8c8", "blue": "#79b8ff",
    "yellow": "#e0c060", "brown": "#e0c060", "magenta": "#d6a2e8",
}  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """The lines of a screen, shown for so many seconds."""

    lines: tuple[tuple[Cell, ...], ...]
    seconds: float


class Screen:
    """An emulated terminal."""

    def __init__(self, columns: int, rows: int) -> None:
        import pyte

        self._columns = columns
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)

    def feed(self, written: bytes) -> None:
        self._stream.feed(written)

    def lines(self) -> tuple[tuple[Cell, ...], ...]:
        return tuple(tuple(self._runs(row)) for row in range(self._screen.lines))

    def _runs(self, row: int) -> Iterator[Cell]:
        line, text, style = self._screen.buffer[row], "", ""
        for place in range(self._columns):
            cell = line[place]
            found = cell.fg if cell.fg in _COLOURS else "bold" if cell.bold else ""
            if text and found != style and (text.strip() or cell.data.strip()):
                yield text, style
                text = ""
            text, style = text + cell.data, found if not text.strip() else style
        if text.strip():
            yield text.rstrip(), style


def frames(
    screens: Sequence[tuple[float, tuple[tuple[Cell, ...], ...]]], *, least: float, last: float
) -> list[Frame]:
    """Frames of (second, lines), each shown at least `least` seconds, the last one for `last`; of
    those that follow each other faster the later ones count."""
    kept: list[tuple[float, tuple[tuple[Cell, ...], ...]]] = []
    for second, lines in screens:
        if kept and kept[-1][1] == lines:
            continue
        if kept and second - kept[-1][0] < least:
            kept[-1] = (kept[-1][0], lines)
        else:
            kept.append((second, lines))
    ends = [second for second, _ in kept[1:]]
    shown = [end - begin for (begin, _), end in zip(kept, ends, strict=False)] + [last]
    return [Frame(lines, seconds) for (_, lines), seconds in zip(kept, shown, strict=True)]


def as_svg(shown: Sequence[Frame], columns: int, *, title: str, says: str) -> str:
    """The frames as an SVG; `title` and `says` are what a screen reader tells of it."""
    rows = max(len(frame.lines) for frame in shown)
    height, width = rows * LINE_HEIGHT + 2 * _MARGIN, columns * CELL_WIDTH + 2 * _MARGIN
    whole = sum(frame.seconds for frame in shown)
    numbers: dict[tuple[Cell, ...], int] = {}
    strip, keys, begun = [], [], 0.0
    for place, frame in enumerate(shown):
        keys.append(f"{100 * begun / whole:.3f}% {{transform: translateY({-place * height}px)}}")
        begun += frame.seconds
        for row, line in enumerate(frame.lines):
            if line:
                number = numbers.setdefault(line, len(numbers))
                top = place * height + _MARGIN + (row + 1) * LINE_HEIGHT - 5
                strip.append(f'<use href="#l{number}" y="{top}"/>')
    last = -(len(shown) - 1) * height
    colours = "".join(f".{name} {{fill: {fill}}} " for name, fill in _COLOURS.items())
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" role="img"
 aria-labelledby="title says" font-size="{FONT_SIZE}" fill="#e8eaec"
 font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace">
<title id="title">{escape(title)}</title>
<desc id="says">{escape(says)}</desc>
<style>
text {{white-space: pre}} .bold {{font-weight: 700}} {colours}
.strip {{transform: translateY({last}px); animation: play {whole:.1f}s step-end infinite}}
@keyframes play {{
{chr(10).join(keys)}
}}
@media (prefers-reduced-motion: reduce) {{ .strip {{animation: none}} }}
</style>
<defs>
{chr(10).join(_text(number, line) for line, number in numbers.items())}
</defs>
<clipPath id="screen"><rect width="{width:g}" height="{height}" rx="8"/></clipPath>
<rect width="{width:g}" height="{height}" rx="8" fill="#14171a"/>
<g clip-path="url(#screen)"><g class="strip">
{chr(10).join(strip)}
</g></g>
</svg>
"""


def _text(number: int, line: tuple[Cell, ...]) -> str:
    """A line, whose runs begin in their columns and are as wide as they are, in any font."""
    column, parts = 0, []
    for text, style in line:
        bare = text.strip()
        if bare:
            begin = column + len(text) - len(text.lstrip())
            named = f' class="{style}"' if style else ""
            parts.append(
                f'<tspan x="{_MARGIN + begin * CELL_WIDTH:g}" '
                f'textLength="{len(bare) * CELL_WIDTH:g}"{named}>{escape(bare)}</tspan>'
            )
        column += len(text)
    return f'<text id="l{number}">{"".join(parts)}</text>'
