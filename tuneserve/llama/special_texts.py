"""Where a text spells out special tokens, found in time proportional to its length.

llama.cpp cuts a text at the special tokens in it before it tokenizes what is between them, and its
time for that grows with the square of their number (22.8 s for 50,000). Here the cuts are found by
the same rules: special tokens by their length, the longest first, each from left to right where no
earlier one has taken a part of it; some take the white space beside them with them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

BLANKS = b" \t\n\v\f\r"
"""White space as C's isspace has it."""


class TooManyTokensError(Exception):
    """A text has more tokens than it may have: `least` or more, and not `most`."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__(f"{least} tokens or more where {most} are allowed")
        self.least = least
        self.most = most


@dataclass(frozen=True, slots=True)
class SpecialText:
    """A special token; `left` and `right`: it takes the white space on that side with it."""

    token: int
    left: bool = False
    right: bool = False


class _Place(NamedTuple):
    """The longest special token that begins at `start`."""

    start: int
    end: int


class SpecialTexts:
    """The special tokens of a vocabulary by their texts."""

    def __init__(self, known: Mapping[bytes, SpecialText]) -> None:
        self.known = {text: special for text, special in known.items() if text}
        names = [text.decode("latin-1") for text in self.known]
        self._pattern = re.compile(any_of(names).encode("latin-1")) if names else None
        self.strips = any(one.left or one.right for one in self.known.values())
        """Do some take white space with them?"""
        self._shorter = {text: self._longest_beginning(text) for text in self.known}
        self._runs = frozenset() if self.strips else _runs(self.known)

    def _longest_beginning(self, text: bytes) -> bytes | None:
        """The longest special token that a longer one begins with."""
        ends = range(len(text) - 1, 0, -1)
        return next((text[:end] for end in ends if text[:end] in self.known), None)

    def has_more_than(self, count: int, data: bytes) -> bool:
        """Does a text spell out more than so many?"""
        places = self._places(data)
        return all(next(places, None) is not None for _ in range(count + 1))

    def cut(self, data: bytes, most: int | None = None) -> Iterator[int | bytes]:
        """A text (UTF-8) as its special tokens and the texts between them. Raises
        TooManyTokensError as soon as it is sure that there are more tokens than `most`."""
        start = 0  # of what is not yet given
        for begin, end, token in self._taken(data, most):
            if start < begin:
                yield data[start:begin]
            if token is not None:
                yield token
            start = end
        if start < len(data):
            yield data[start:]

    def _places(self, data: bytes) -> Iterator[_Place]:
        if self._pattern is None:
            return
        found = self._pattern.search(data)
        while found:
            yield _Place(*found.span())
            alone = found[0] in self._runs
            found = self._pattern.search(data, found.end() if alone else found.start() + 1)

    def _taken(self, data: bytes, most: int | None) -> list[tuple[int, int, int | None]]:
        """What is taken of the text, in order: (start, end, token, or None for white space)."""
        taken: list[tuple[int, int, int | None]] = []
        for number, cluster in enumerate(self._clusters(data), start=1):
            if most is not None and number > most and not self.strips:
                raise TooManyTokensError(number, most)
            taken += self._of_cluster(data, cluster)
        return taken

    def _clusters(self, data: bytes) -> Iterator[list[_Place]]:
        """Special tokens that may get in each other's way."""
        cluster: list[_Place] = []
        end = 0
        for place in self._places(data):
            if cluster and self._around(data, place).start >= end:
                yield cluster
                cluster = []
                end = 0
            cluster.append(place)
            end = max(end, self._around(data, place).end)
        if cluster:
            yield cluster

    def _around(self, data: bytes, place: _Place) -> _Place:
        """A place with the white space beside it that a token may take."""
        start, end = place
        while self.strips and end < len(data) and data[end] in BLANKS:
            end += 1
        while self.strips and start > 0 and data[start - 1] in BLANKS:
            start -= 1
        return _Place(start, end)

    def _of_cluster(self, data: bytes, cluster: list[_Place]) -> list[tuple[int, int, int | None]]:
        first = cluster[0]
        if not self.strips and (len(cluster) == 1 or max(one.end for one in cluster) == first.end):
            return [(*first, self.known[data[first.start : first.end]].token)]
        spans = [self._around(data, place) for place in cluster]
        offset = min(span.start for span in spans)
        used = bytearray(max(span.end for span in spans) - offset)
        taken: list[tuple[int, int, int | None]] = []
        waiting: defaultdict[int, list[int]] = defaultdict(list)
        for place in cluster:
            waiting[place.end - place.start].append(place.start)
        while waiting:
            length = max(waiting)
            starts = waiting.pop(length)
            for start in sorted(starts, key=lambda at: (self._token(data, at, length), at)):
                begin, end = start - offset, start - offset + length
                if used[begin]:
                    continue
                text = data[start : start + length]
                if used.find(1, begin, end) >= 0:
                    if shorter := self._shorter[text]:
                        waiting[len(shorter)].append(start)
                    continue
                special = self.known[text]
                used[begin:end] = b"\1" * length
                taken.append((start, start + length, special.token))
                taken += self._blanks(data, used, offset, begin, end, special)
        return sorted(taken, key=lambda one: one[0])

    def _token(self, data: bytes, start: int, length: int) -> int:
        return self.known[data[start : start + length]].token

    @staticmethod
    def _blanks(
        data: bytes, used: bytearray, offset: int, begin: int, end: int, special: SpecialText
    ) -> Iterator[tuple[int, int, None]]:
        """The white space that a token at [begin, end) of the cluster takes."""
        left, right = begin, end
        while special.left and left and not used[left - 1] and data[offset + left - 1] in BLANKS:
            left -= 1
        while (
            special.right
            and right < len(used)
            and not used[right]
            and data[offset + right] in BLANKS
        ):
            right += 1
        for one, other in ((left, begin), (end, right)):
            if one < other:
                used[one:other] = b"\1" * (other - one)
                yield offset + one, offset + other, None


def _runs(texts: Collection[bytes]) -> frozenset[bytes]:
    """Those that are one byte again and again, which no others hold. In a row of that byte, taking
    the longest first is the same as taking the longest at each place from left to right."""
    mixed = {byte for text in texts if len(set(text)) > 1 for byte in text}
    return frozenset(text for text in texts if len(set(text)) == 1 and text[0] not in mixed)


def any_of(texts: Iterable[str]) -> str:
    """A regular expression for the longest of the texts that stands at a place. It tries each
    character once, however many of them begin alike."""
    tree: dict[str, dict] = {}  # type: ignore[type-arg]
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return _written(tree)


def _written(node: dict[str, dict]) -> str:  # type: ignore[type-arg]
    ways = []
    for character, following in node.items():
        if not character:
            continue
        text = re.escape(character)
        while len(following) == 1 and "" not in following:
            [(character, following)] = following.items()
            text += re.escape(character)
        rest = _written(following)
        ways.append(text + rest)
    if not ways:
        return ""
    together = ways[0] if len(ways) == 1 and "" not in node else f"(?:{'|'.join(ways)})"
    return together + "?" * ("" in node)
