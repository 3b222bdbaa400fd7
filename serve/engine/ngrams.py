"""Guesses what comes next in a text that repeats itself: prompt lookup, by n-grams.

The last tokens of prompt and answer are looked up in what precedes them; what followed there is
the guess (Saxena, "Prompt lookup decoding", 2023). Candidates are found as LZ77's match finders do
it: SIZE tokens lead to the latest place where they stand, and from there to each earlier one.
"""

from __future__ import annotations

import numpy as np

SIZE = 3
"""Tokens that must agree before a place is a candidate."""

LONGEST = 32
"""Agreeing tokens are counted up to this many."""

_CANDIDATES = 16
"""Places that are compared for one guess."""

_TOKEN_BITS = 21  # three token ids in an int64


class NgramDrafter:
    """Follows `tokens`, a list that its owner appends to; tell each one by `see`.

    `matched` is how many tokens before the guess agree with those before its source, 0 where there
    is no guess. A token takes constant time. `tokens` may be millions: the first look at them is
    vectorized.
    """

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._latest: dict[int, int] = {}
        self._earlier: list[int] = [-1] * (len(tokens) + 1)
        self._source = -1
        self.matched = 0
        self._index_all()
        self._find(self._earlier[-1])

    def _index_all(self) -> None:
        """Put every n-gram of the tokens so far into the index. `_earlier[i]` is the place before i
        where the n-gram that ends before token i ends too, -1 if there is none."""
        count = len(self._tokens)
        if count < SIZE:
            return
        ids = np.asarray(self._tokens, np.int64)
        grams = ids[: count - 2] << (2 * _TOKEN_BITS) | ids[1 : count - 1] << _TOKEN_BITS | ids[2:]
        order = np.argsort(grams, kind="stable")
        same = grams[order[1:]] == grams[order[:-1]]
        earlier = np.full(len(grams), -1, np.int64)
        earlier[order[1:][same]] = order[:-1][same] + SIZE
        # An entry for every place 0 … count: the last is behind the last token.
        self._earlier = [-1] * SIZE + earlier.tolist()
        self._latest = dict(zip(grams.tolist(), range(SIZE, count + 1), strict=True))

    def see(self) -> bool:
        """One token was appended; was it the guess?"""
        tokens = self._tokens
        place = len(tokens)
        if place < SIZE:
            self._earlier.append(-1)
            return False
        gram = tokens[-3] << (2 * _TOKEN_BITS) | tokens[-2] << _TOKEN_BITS | tokens[-1]
        earlier = self._latest.get(gram, -1)
        self._latest[gram] = place
        self._earlier.append(earlier)
        if self.matched and tokens[self._source] == tokens[-1]:
            self._source += 1
            self.matched = min(LONGEST, self.matched + 1)
            return True
        self._find(earlier)
        return False

    def _find(self, place: int) -> None:
        """Guess from the candidate, of those from `place` back, that agrees longest."""
        self.matched = 0
        for _ in range(_CANDIDATES):
            if place < 0 or self.matched == LONGEST:
                return
            agreeing = self._agreement(place)
            if agreeing > self.matched:
                self._source, self.matched = place, agreeing
            place = self._earlier[place]

    def _agreement(self, place: int) -> int:
        tokens, end = self._tokens, len(self._tokens)
        count = SIZE
        while count < min(place, LONGEST) and tokens[place - 1 - count] == tokens[end - 1 - count]:
            count += 1
        return count

    def draft(self, count: int) -> list[int]:
        """The next `count` tokens as they would be. Where the source reaches the text's end, it is
        taken to repeat."""
        if not self.matched:
            return []
        known = self._tokens[self._source : self._source + count]
        return (known * -(-count // len(known)))[:count]
