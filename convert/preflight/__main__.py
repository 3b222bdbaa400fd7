"""The process of apart.py: reads what to check from stdin, writes the findings to stdout (JSON)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuneserve.extras import leave_out

leave_out("torch")  # transformers imports it for tokenizers too

from tuneserve.base import ResolvedBase  # noqa: E402
from tuneserve.chat.examples import Example  # noqa: E402
from tuneserve.child import answer_request  # noqa: E402
from tuneserve.convert.preflight.check import check_conversion  # noqa: E402
from tuneserve.convert.preflight.untrainable import UntrainableError  # noqa: E402
from tuneserve.settings import Recipe  # noqa: E402


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    base = request["base"]
    try:
        findings = check_conversion(
            Recipe.model_validate(request["recipe"]),
            ResolvedBase(Path(base["path"]), base["name"], base["spec"]),
            [Example.from_row(row, where) for row, where in request["examples"]],
            place=Path(request["place"]),
            quantizes=request["quantizes"],
            trains=request["trains"],
        )
    except UntrainableError as error:
        return {"untrainable": error.problems}
    return {"findings": [asdict(finding) for finding in findings]}


if __name__ == "__main__":
    answer_request(_answer)
