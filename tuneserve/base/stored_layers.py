"""Do a checkpoint's weights hold the layers that its config.json counts?

transformers leaves layers out that config.json does not count, and makes up at random those that
the weights lack.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.text_model import text_config, text_name

_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")
_ANY_LAYER = re.compile(r"(^|\.)\d+\.")
# What a layer that predicts the token after the next has: DeepSeek and GLM store it behind the
# last layer, and transformers does not read it.
_NEXT_TOKENS = re.compile(r"model\.layers\.(\d{1,9})\.eh_proj\.")
# LongCat's layers hold two each: config.json may count either.
_COUNTS = ("num_hidden_layers", "num_layers")
_HINT = "Download it again, or ask who made it."


def check_stored_layers(names: Iterable[str], config: Mapping[str, Any], path: Path) -> None:
    """`names`: of all tensors of the checkpoint in directory `path`, whose config.json has
    `config`. Only the text model's layers are counted.

    Raises UsageError where there are other layers than config.json says, or tensors of no layer.
    """
    names = list(names)
    if not any(map(_ANY_LAYER.search, names)):
        raise UsageError(
            f"holds no layer of a model: its weights are {len(names)} other tensors",
            where=str(path), hint=_HINT,
        )  # fmt: skip
    text = [short for name in names if (short := text_name(name)) is not None]
    stored = _numbers(_LAYER, text) - _numbers(_NEXT_TOKENS, text)
    inner = text_config(config)
    counts = [inner[key] for key in _COUNTS if isinstance(inner.get(key), int)]
    if not stored or not counts:
        return
    last = max(stored) + 1
    if not min(counts) <= last <= max(counts):
        raise UsageError(
            f"num_hidden_layers is {counts[0]}, and the weights are those of {last} layers",
            where=str(path / "config.json"), hint=_HINT,
        )  # fmt: skip


def _numbers(expression: re.Pattern[str], names: Iterable[str]) -> set[int]:
    return {int(found[1]) for found in map(expression.match, names) if found}
