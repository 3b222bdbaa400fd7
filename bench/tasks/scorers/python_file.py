"""Task python: the user's own function scores an answer."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tuneserve.bench.tasks.scorers.marks import Mark, Scorer, ScorerError, plain, shortened
from tuneserve.errors import UsageError

_MODULE = "tuneserve_user_scorer"


def python_scorer(place: str) -> Scorer:
    """The user's own function, named as 'file.py:function': (answer, reference) -> bool or number
    from 0 to 1. The file is run: it is the user's own code, like a Makefile. It may import files
    beside it. A failure on an answer is a ScorerError that names the answer and the line."""
    path, name = _place(place)
    with _beside(path):
        function = _load(path).get(name)
    if not callable(function):
        raise UsageError(f"has no function '{name}'", where=f"bench.scorer: {path}")
    where = f"bench.scorer: {place}"

    def mark(answer: str, reference: str) -> Mark:
        try:
            with _beside(path):
                returned = function(answer, reference)
        except Exception as error:
            raise _failure(f"failed: {_said(error, path)}", answer, reference, where) from error
        try:
            score = float(returned)
        except (TypeError, ValueError):
            message = f"returned {returned!r:.40}, which is no number"
            raise _failure(message, answer, reference, where) from None
        if not 0.0 <= score <= 1.0 or math.isnan(score):
            message = f"returned {score}, which is not between 0 and 1"
            raise _failure(message, answer, reference, where)
        return plain(score)

    return Scorer(mark)


def try_out(scorer: Scorer, references: Sequence[str]) -> None:
    """Raise UsageError if the scorer fails on a right answer, an empty one, or a wrong one."""
    first = references[0]
    other = next((one for one in references if one != first), f"not {first}")
    for answer in (first, "", other):
        scorer.mark(answer, first)


def scorer_files(place: str) -> list[Path]:
    """The file of a scorer and the files of its folder that it has imported so far."""
    path, _ = _place(place)
    folder = path.resolve().parent
    found = {path}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # A checkout of this package, or an environment, may lie in that folder too.
        if not file or name.partition(".")[0] == "tuneserve" or "site-packages" in file:
            continue
        if folder in Path(file).parents:
            found.add(Path(file))
    return sorted(found)


def _place(place: str) -> tuple[Path, str]:
    path_text, _, name = place.rpartition(":")
    if not path_text or not name.isidentifier():
        raise UsageError(
            f"task 'python' needs a function as 'file.py:function' (got '{place}')",
            where="bench.scorer",
        )
    path = Path(path_text)
    if not path.is_file() or path.suffix != ".py":
        raise UsageError("no such Python file", where=f"bench.scorer: {path}")
    return path, name


def _load(path: Path) -> dict[str, Any]:
    """The names of the file once it has run."""
    module = ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module  # dataclasses look their module up there
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # noqa: S102
    except Exception as error:
        raise UsageError(
            f"can't be run: {_said(error, path)}", where=f"bench.scorer: {path}"
        ) from error
    return vars(module)


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Let modules in the file's folder be found first, as Python does for a script."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _failure(message: str, answer: str, reference: str, where: str) -> ScorerError:
    return ScorerError(
        message,
        where=where,
        problems=[f"answer: {shortened(answer)}", f"reference: {shortened(reference)}"],
    )


def _said(error: Exception, path: Path) -> str:
    """The error with the last line of the user's file that it came through."""
    said = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"{said} (line {lines[-1]})" if lines and not isinstance(error, SyntaxError) else said
