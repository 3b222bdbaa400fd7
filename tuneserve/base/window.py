"""The longest text that a base is made for, which the default of max_seq_length follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.findings import Finding
from tuneserve.gguf.architectures.computed import ignored_window
from tuneserve.settings import Recipe
from tuneserve.text_model import text_config


def longest_text(config: Mapping[str, Any]) -> int | None:
    """Tokens of a text that training and llama.cpp compute alike: the positions that config.json
    has, or a sliding window that llama.cpp computes without. None where it says neither."""
    config = text_config(config)
    positions, window = (
        config.get(key) for key in ("max_position_embeddings", "sliding_window")
    )  # fmt: skip
    if type(positions) is not int or positions < 1:
        return None
    known = window is None or type(window) is int
    return min(positions, (ignored_window(config) if known else None) or positions)


def within_window(recipe: Recipe, config: Mapping[str, Any], *, told: bool = True) -> Recipe:
    """The recipe for a base of this config.json: where nobody has set max_seq_length, its default
    is the base's longest text if that is shorter, and `told` says so in a line."""
    longest, model = longest_text(config), recipe.model
    if (
        longest is None
        or "max_seq_length" in model.model_fields_set
        or longest >= model.max_seq_length
    ):
        return recipe
    if told:
        say(
            f"max_seq_length: {longest:,}, the longest text of this base (its default is "
            f"{model.max_seq_length:,})"
        )
    changed = model.model_copy(update={"max_seq_length": longest})
    return recipe.model_copy(update={"model": changed})


def beyond_window(recipe: Recipe, config: Mapping[str, Any]) -> Finding | None:
    """'refused' for a max_seq_length beyond the longest text of a base of this config.json:
    training would stretch its RoPE, which the GGUF would not have, or look through a sliding window
    that llama.cpp computes without."""
    longest, length = longest_text(config), recipe.model.max_seq_length
    if longest is None or length <= longest:
        return None
    key = "max_position_embeddings"
    if longest != text_config(config)[key]:
        key = "sliding_window, which llama.cpp computes without"
    return Finding(
        "window", "refused",
        f"max_seq_length is {length:,}, and this base is made for {longest:,} tokens (config.json: "
        f"{key})",
        f"Set [model] max_seq_length to {longest} or less.",
    )  # fmt: skip


def require_within_window(recipe: Recipe, config: Mapping[str, Any], where: str) -> None:
    """Raise UsageError for what `beyond_window` refuses."""
    if refused := beyond_window(recipe, config):
        raise UsageError(refused.found, where=where, hint=refused.advice)
