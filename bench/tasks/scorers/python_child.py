"""Runs a scorer's file in a process of its own: one JSON object a line in, one out.

Started as a script, with the standard library alone: the scorer's file and its function are the
arguments. The first line out says whether the file could be run; then each line in, {"answer",
"reference"}, is answered by {"score"} or by what went wrong: {"failed"}, {"returned"}. Every line
out names the files of the scorer's folder that have been imported so far.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULE = "tuneserve_user_scorer"
_LONGEST = 500  # characters of an error's text


def main() -> None:
    path, name = Path(sys.argv[1]), sys.argv[2]
    # What the scorer prints goes to the log, and can't be taken for an answer.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)

    def reply(**content: Any) -> None:
        content["files"] = _imported(path)
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    # A helper that is changed within a second would be taken for the one that is cached.
    sys.dont_write_bytecode = True
    # Modules in the file's folder are found first, as Python does for a script.
    sys.path.insert(0, str(path.resolve().parent))
    module = ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module  # dataclasses look their module up there
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # noqa: S102
    except BaseException as error:
        reply(unloadable=_said(error, path))
        return
    function = vars(module).get(name)
    reply(callable=callable(function))
    if not callable(function):
        return
    for line in requests:
        asked = json.loads(line)
        try:
            returned = function(asked["answer"], asked["reference"])
        except Exception as error:
            reply(failed=_said(error, path))
            continue
        try:
            score = float(returned)
        except Exception:
            shown = f"{type(returned).__name__} object"
            with contextlib.suppress(Exception):
                shown = repr(returned)[:40]
            reply(returned=shown)
            continue
        reply(score=score)


def _imported(path: Path) -> list[str]:
    folder = path.resolve().parent
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # A checkout of this package, or an environment, may lie in that folder too.
        if not isinstance(file, str) or name.partition(".")[0] == "tuneserve":
            continue
        if "site-packages" not in file and folder in Path(file).parents:
            found.append(file)
    return sorted(found)


def _said(error: BaseException, path: Path) -> str:
    """The error with the last line of the user's file that it came through."""
    said = f"{type(error).__name__}: {error}"[:_LONGEST]
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"{said} (line {lines[-1]})" if lines and not isinstance(error, SyntaxError) else said


if __name__ == "__main__":
    main()
