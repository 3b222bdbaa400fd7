"""Errors meant for a person: what is wrong, where, and what to do about it.

Code raises these; only the command line turns them into text and an exit code. Anything else that
escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

SHOWN_PROBLEMS = 20


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
        lines += [
            f"  {problem}".replace("\n", "\n    ") for problem in self.problems[:SHOWN_PROBLEMS]
        ]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines.append(f"  … and {len(self.problems) - SHOWN_PROBLEMS} more")
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)


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
