"""Whose fault a failure is: the prompt's, which is recorded, or the endpoint's, which ends it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from tuneserve.errors import TuneserveError
from tuneserve.settings import BenchSettings

REFUSED = 5  # prompts that are refused first of all, after which none is asked any more
FAILED_IN_A_ROW = 20  # prompts after which the endpoint, not the prompt, is taken to be at fault


@dataclass(frozen=True)
class Failure:
    """Why a prompt has no answer. `refused`: what is to be done where every prompt is told so.
    `unreachable`: there was no connection, whatever the prompt."""

    reason: str
    refused: str = ""
    unreachable: bool = False


@dataclass(frozen=True)
class Before:
    """What an endpoint did when it was asked before: how many prompts it answered, and the ids of
    those that failed."""

    answered: int = 0
    failed: Collection[str] = ()


UNASKED = Before()


@dataclass
class Tally:
    """What became of the prompts that are asked, `asked` of them.

    A prompt that failed before, where others were answered, and fails again is no sign against the
    endpoint: when only such prompts are left, all that are asked fail.
    """

    settings: BenchSettings
    asked: int
    before: Before = UNASKED
    _answered: int = field(init=False)
    _in_a_row: int = field(default=0, init=False)
    _unreachable: int = field(default=0, init=False)
    _last: Failure = field(default=Failure(""), init=False)

    def __post_init__(self) -> None:
        self._answered = self.before.answered

    def answer(self) -> None:
        self._answered += 1
        self._in_a_row = 0

    def fail(self, example: str, failure: Failure) -> None:
        self._last = failure
        self._unreachable += failure.unreachable
        known = self._answered > 0 and example in self.before.failed
        self._in_a_row += failure.unreachable or not known

    @property
    def fault(self) -> TuneserveError | None:
        """The error that says that the endpoint is at fault, if it seems so by now."""
        last, count = self._last, self._in_a_row
        if last.refused and not self._answered and count >= min(REFUSED, self.asked):
            return failure_of(last.reason, self.settings, last.refused)
        if count >= FAILED_IN_A_ROW:
            said = f"{count} prompts in a row; the last: {last.reason}"
            return failure_of(said, self.settings, last.refused)
        return None

    @property
    def fault_at_the_end(self) -> TuneserveError | None:
        """The same once all were asked: nothing was ever answered, or there is nobody."""
        if self.asked and (not self._answered or self._unreachable == self.asked):
            return failure_of(self._last.reason, self.settings, self._last.refused)
        return None


def failure_of(reason: str, settings: BenchSettings, hint: str = "") -> TuneserveError:
    """The error of an endpoint that failed for a reason, with what may be done about it."""
    return TuneserveError(
        f"the endpoint failed: {reason}", where=settings.endpoint, hint=hint or _hint_of(reason)
    )


def _hint_of(reason: str) -> str:
    """What may be done about what single prompts failed with."""
    kept = "What was answered is kept: the same command goes on."
    if "Connection" in reason or "timed out" in reason:
        return f"Is a server listening there? The URL ends with /v1, as a rule. {kept}"
    return f"Further fields, or null for one that is not taken: --endpoint-body. {kept}"
