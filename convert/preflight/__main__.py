"""The process of apart.py: reads what to check from stdin, writes the findings to stdout (JSON)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

# transformers imports torch, if it finds it, for tokenizers too, which takes seconds.
sys.modules["torch"] = None  # type: ignore[assignment]

from tuneserve.base import ResolvedBase  # noqa: E402
from tuneserve.chat.examples import Example  # noqa: E402
from tuneserve.child import answer_request  # noqa: E402
from tuneserve.convert.preflight.check import check_conversion  # noqa: E402
from tuneserve.settings import Recipe  # noqa: E402


def _answer(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    base = request["base"]
    findings = check_conversion(
        Recipe.model_validate(request["recipe"]),
        ResolvedBase(Path(base["path"]), base["name"], base["spec"]),
        [Example.from_row(row) for row in request["examples"]],
        place=Path(request["place"]),
        quantizes=request["quantizes"],
    )
    return [asdict(finding) for finding in findings]


if __name__ == "__main__":
    answer_request(_answer)
