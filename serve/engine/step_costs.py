"""How long steps take, by their number of tokens."""

from __future__ import annotations

_STALE = 1024


class StepCosts:
    """How long a step of so many answer tokens takes: an average of recent ones, or between and
    beyond the numbers that were met a straight line."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._met: dict[int, int] = {}
        self._count = 0
        self.per_token: float | None = None
        """Seconds for a token of a prompt, once known."""

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of answers' tokens alone took that long."""
        self._count += 1
        known = self._seconds.get(tokens)
        if known is None:
            self._seconds[tokens] = seconds
        else:  # One that was held up by something else counts twice the usual time at most.
            self._seconds[tokens] = 0.85 * known + 0.15 * min(seconds, 2.0 * known)
        self._met[tokens] = self._count

    def observe_prompt(self, tokens: int, seconds: float) -> None:
        """A step of `tokens`, nearly all of prompts, took that long: what one more token costs
        where nothing else is known."""
        each = seconds / tokens
        self.per_token = each if self.per_token is None else 0.7 * self.per_token + 0.3 * each

    def seconds(self, least: int, most: int) -> list[float] | None:
        """Of steps with `least` … `most` tokens; None until a step of about `least` was met."""
        self._forget_stale(least)
        sizes = sorted(self._seconds)
        if not sizes or sizes[0] > least:
            return None
        found = []
        right = 0
        for tokens in range(least, most + 1):
            while right < len(sizes) and sizes[right] < tokens:
                right += 1
            if right == len(sizes):
                last = sizes[-1]
                found.append(self._seconds[last] + (tokens - last) * self._slope(last))
                continue
            above = sizes[right]
            below = sizes[right - 1] if above > tokens else above
            low, high = self._seconds[below], self._seconds[above]
            part = (tokens - below) / (above - below) if above > below else 0.0
            found.append(low + part * (high - low))
        return found

    def _slope(self, tokens: int) -> float:
        """What a token more than `tokens` costs."""
        if self.per_token is not None:
            return min(self.per_token, self._seconds[tokens])
        return self._seconds[tokens] / (4 * tokens)

    def _forget_stale(self, least: int) -> None:
        """Larger steps that were not met for long may have become cheaper: let them be tried."""
        for tokens, met in list(self._met.items()):
            if tokens > least and self._count - met > _STALE:
                del self._seconds[tokens], self._met[tokens]
