"""A recipe as text: TOML whose comments are the settings' own descriptions."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneserve.recipe import as_written, section_model
from tuneserve.settings import Recipe

_WIDTH = 96
CHANGED_FIRST = {
    "data": ("system", "skip_bad", "eval_fraction", "test_fraction"),
    "train": ("r", "alpha", "learning_rate", "epochs", "batch_size", "evaluations"),
    "convert": ("quantization",),
    "serve": ("ctx", "slots"),
    "bench": ("task", "max_tokens"),
}
"""The settings that are changed first: `init` writes them as comments, with their defaults, and the
forms of `ui` begin with them."""


def recipe_text(
    chosen: Mapping[str, Mapping[str, Any]], offered: Mapping[str, Sequence[str]], heading: str
) -> str:
    """TOML with the `chosen` settings, and those `offered` beside them as comments with their
    defaults, each under its description; `heading` are the first lines."""
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    for section in Recipe.model_fields:
        values = chosen.get(section, {})
        fields = section_model(section).model_fields
        names = [name for name in fields if name in values or name in offered.get(section, ())]
        if not names:
            continue
        lines += ["", f"[{section}]"]
        for name in names:
            lines += [f"# {line}" for line in textwrap.wrap(fields[name].description or "", _WIDTH)]
            if name in values:
                lines.append(f"{name} = {toml_value(as_written(section, name, values[name]))}")
            else:
                lines.append(f"# {name} = {toml_value(fields[name].get_default())}")
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A setting's value as TOML; None, which is not set, has no form there."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")
    raise TypeError(f"no setting is a {type(value).__name__}")
