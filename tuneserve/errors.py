"""Errors meant for a person: what is wrong, where, and what to do about it.

Code raises these; only the command line turns them into text and an exit code. Anything else that
escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from itertools import pairwise

SHOWN_PROBLEMS = 20
# Fewer problems with the same reason are each told in full.
_FEWEST_ALIKE = 3
_SHOWN_PLACES = 5


class TuneserveError(Exception):
    """Something failed that the user can understand and mend. Exit code 1.

    `where` names the place (``file:line``, a settings key, an address); `hint` says what to do;
    `problems` lists everything that is wrong with one input, so that it can be mended in one go.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", problems: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.problems = list(problems)

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        """The error as shown to a person: one line, then the problems and the hint, if any."""
        # A line break in data begins no line that could be taken for another message.
        first = f"{self.where}: {self.message}" if self.where else self.message
        lines = [first.replace("\n", "\n    ")]
        problems = grouped(self.problems)
        lines += [f"  {problem}".replace("\n", "\n    ") for problem in problems[:SHOWN_PROBLEMS]]
        if len(problems) > SHOWN_PROBLEMS:
            lines.append(f"  … and {len(problems) - SHOWN_PROBLEMS} more")
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)


def grouped(problems: Sequence[str]) -> list[str]:
    """The problems ('place: reason') as they are shown: a reason that several places have is told
    once, with their number and the first of them."""
    places: dict[str, list[str]] = {}
    for problem in problems:
        place, _, reason = problem.partition(": ")
        places.setdefault(reason, []).append(place)
    lines, told = list[str](), set[str]()
    for problem in problems:
        reason = problem.partition(": ")[2]
        if not reason or len(places[reason]) < _FEWEST_ALIKE:
            lines.append(problem)
        elif reason not in told:
            told.add(reason)
            lines.append(f"{len(places[reason]):,} x {reason} ({_listed(places[reason])})")
    return lines


def _listed(places: Sequence[str]) -> str:
    """The first places; of one in the same file as the one before only what follows its name."""
    shown = [places[0]]
    for before, place in pairwise(places[:_SHOWN_PLACES]):
        file, separator, rest = place.rpartition(":")
        shown.append(f":{rest}" if separator and before.rpartition(":")[0] == file else place)
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


class UsageError(TuneserveError):
    """The command, a setting or an input file is wrong. Exit code 2."""

    exit_code = 2


class OutputExistsError(UsageError):
    """A stage would have to overwrite something. Raised before any slow work starts."""

    def __init__(
        self,
        path: object,
        *,
        hint: str = "Pass --force to replace it, or choose another name.",
        problems: Sequence[str] = (),
    ) -> None:
        message = "already exists, made otherwise:" if problems else "already exists"
        super().__init__(message, where=str(path), hint=hint, problems=problems)


_HINTS = {
    errno.ENOSPC: "Make room on that disk; the same command then goes on.",
    errno.EDQUOT: "Make room within your quota; the same command then goes on.",
    errno.EROFS: "Choose a place that can be written.",
    errno.EACCES: "Choose another place, or change its permissions.",
    errno.EPERM: "Choose another place, or change its permissions.",
    errno.EMFILE: "Allow more open files: ulimit -n 4096.",
}


def of_system(error: OSError) -> TuneserveError:
    """What the system refused (a full disk, a folder that can't be written) as an error for a
    person."""
    reason = error.strerror or str(error)
    return TuneserveError(
        reason[:1].lower() + reason[1:],
        where=str(error.filename) if error.filename is not None else "",
        hint=_HINTS.get(error.errno or 0, ""),
    )


def rust_failure(error: BaseException) -> str | None:
    """Why a library in Rust (tokenizers) has failed: it raises `Exception` itself, or what Rust
    panics with, which is no Exception. None: the error is another's."""
    kind = type(error)
    if kind is Exception or kind.__module__ == "pyo3_runtime":
        return str(error) or "no reason given"
    return None
