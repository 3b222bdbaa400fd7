"""reasoning_effort: how long a model thinks, said in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BUDGETS: Mapping[str, int | None] = {
    "none": 0,
    "minimal": 256,
    "low": 1024,
    "medium": 4096,
    "high": 16_384,
    "xhigh": None,
    "max": None,
}
"""Most tokens of thoughts; None: no limit."""

_LEVELS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}
"""What a chat template with levels of its own (gpt-oss: low, medium, high) makes of the others."""


class Effort(NamedTuple):
    """The thinking budget (None: no limit) and the chat template's variables."""

    budget: int | None
    variables: dict[str, Any]


def effort_of(asked: str | None, template_source: str) -> Effort:
    """What a request's reasoning_effort means for a chat template. One that knows the variable
    decides by itself; `none` switches the thoughts off where the template can."""
    if asked is None:
        return Effort(None, {})
    if "reasoning_effort" in template_source:
        return Effort(None, {"reasoning_effort": _LEVELS.get(asked, asked)})
    if asked == "none" and "enable_thinking" in template_source:
        return Effort(0, {"enable_thinking": False})
    return Effort(BUDGETS[asked], {})
