"""Regular expressions that come with a task, matched within limits of time and memory.

The time that one takes may double with every character, and nothing in this process can interrupt
it: all are matched in another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneserve.bench.tasks.scorers.limited_process import AnswerError, LimitedProcess, Limits
from tuneserve.bench.tasks.scorers.marks import ScorerError, shortened
from tuneserve.settings import BenchSettings

_CHILD = Path(__file__).with_name("pattern_child.py")


def problem_of(pattern: str) -> str:
    """Why a pattern is no regular expression; '' if it is one."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError) as error:
        return str(error)
    except RecursionError:
        return "is nested too deep"
    return ""


class BoundedPatterns:
    """The process for the patterns of one task, started when one is matched first, with the limits
    of the `settings`; `where` is where the patterns stand. What takes too long, or fails, is a
    ScorerError that names the pattern and the texts."""

    def __init__(self, settings: BenchSettings, where: str) -> None:
        self._where = where
        self._process = LimitedProcess(_CHILD, limits=Limits.of(settings), where=where)

    def captures(self, pattern: str, texts: Mapping[str, str]) -> dict[str, list[str]]:
        """Of each text, by its name, what the first group (or all of a pattern without one)
        matches, without repetitions, the last first."""
        found: dict[str, list[str]] = self._ask("captures", pattern, texts)
        return found

    def find(self, pattern: str, text: str, number: int) -> str | list[str] | None:
        """The match of that number (from behind, if negative): its text, or of several groups all
        of theirs; None where there is none."""
        found: str | list[str] | None = self._ask("find", pattern, {"text": text}, number)["text"]
        return found

    def remove(self, pattern: str, text: str) -> str:
        """The text without what matches."""
        found: str = self._ask("remove", pattern, {"text": text})["text"]
        return found

    def _ask(self, do: str, pattern: str, texts: Mapping[str, str], *more: int) -> dict[str, Any]:
        asked = {"do": do, "pattern": pattern, "texts": texts, "more": more}
        try:
            reply = self._process.ask(asked)
            if "failed" in reply:
                raise AnswerError(f"failed: {reply['failed']}")
        except AnswerError as error:
            raise ScorerError(
                f"the pattern {shortened(pattern)} {error}",
                where=self._where,
                hint="Where repetitions stand within one another, or side by side, the same text "
                r"matches in many ways: (\w+\s?)* is \w[\w\s]*. Or allow more: --scorer-seconds.",
                problems=[f"{name}: {shortened(text)}" for name, text in texts.items()],
            ) from None
        found: dict[str, Any] = reply["found"]
        return found
