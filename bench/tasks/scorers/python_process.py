"""A user's scoring function in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneserve.bench.tasks.scorers.limited_process import AnswerError, LimitedProcess, Limits
from tuneserve.errors import UsageError

_CHILD = Path(__file__).with_name("python_child.py")


class ScorerProcess:
    """The function of a Python file, called in a process of its own (`LimitedProcess`)."""

    def __init__(self, path: Path, name: str, limits: Limits) -> None:
        """Raises UsageError if the file can't be run or has no such function."""
        self.files: set[Path] = {path}
        where = f"bench.scorer: {path}"
        self._process = LimitedProcess(_CHILD, str(path), name, limits=limits, where=where)
        try:
            reply = self._noted(self._process.start())
        except AnswerError as error:
            raise UsageError(f"can't be run: {error}", where=where) from None
        if "unloadable" in reply:
            self._process.end()
            raise UsageError(f"can't be run: {reply['unloadable']}", where=where)
        if not reply.get("callable"):
            self._process.end()
            raise UsageError(f"has no function '{name}'", where=where)

    def score(self, answer: str, reference: str) -> float:
        """What the function returned, as a number. Raises AnswerError where it fails on this
        answer, UsageError once all calls together have taken too long."""
        reply = self._noted(self._process.ask({"answer": answer, "reference": reference}))
        for kind, form in (
            ("failed", "failed: {}"),
            ("returned", "returned {}, which is no number"),
            ("unloadable", "can't be run: {}"),
        ):
            if kind in reply:
                raise AnswerError(form.format(reply[kind]))
        try:
            return float(reply["score"])
        except (KeyError, TypeError, ValueError):
            raise AnswerError("sent what is no reply") from None

    def _noted(self, reply: dict[str, Any]) -> dict[str, Any]:
        """A reply, once the files that it names are known."""
        files = reply.get("files")
        if isinstance(files, list):
            self.files |= {Path(file) for file in files if isinstance(file, str)}
        return reply
