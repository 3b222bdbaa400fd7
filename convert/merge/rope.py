"""RoPE as two config.json describe it. There are two forms of writing it, and a key that is left
out has a default: what is compared is what the computation goes by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tuneserve.convert.merge.config import DEFAULTS
from tuneserve.gguf.architectures import common, longrope
from tuneserve.gguf.architectures.computed import SCALING_KEYS
from tuneserve.gguf.architectures.gemma import local_rope_theta
from tuneserve.gguf.architectures.llama import llama3_factors

ROPE_KEYS = frozenset({
    "rope_theta", "rope_parameters", "rope_scaling", "rope_local_base_freq",
    "partial_rotary_factor", "original_max_position_embeddings",
})  # fmt: skip
"""All that config.json says of RoPE."""
_FORMS = ("rope_parameters", "rope_scaling")
_WHOLE, _LOCAL = "full_attention", "sliding_attention"
_FACTOR_ONLY = ("linear", "yarn", "llama3")
"""Kinds that change nothing with a factor of 1."""
_KNOWN = {"default", *SCALING_KEYS}
_ELSEWHERE = {"type", "rope_theta", "partial_rotary_factor"}
# YaRN's defaults, of transformers and llama.cpp.
_YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
_YARN_KEYS = ("factor", "original_max_position_embeddings", "attention_factor", *_YARN)
_TOLERANCE = 1e-6  # a GGUF holds numbers in single precision


def rope_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """In words, what `theirs` computes otherwise than `ours`, the training's. Kinds of layers that
    one of both does not name, and a rope_theta, have another default in each model: they are not
    compared."""
    mine, others = _by_layer(ours), _by_layer(theirs)
    return [
        found if kind == _WHOLE else f"{kind}: {found}"
        for kind, config in mine.items()
        if kind in others
        for found in _differences(config, others[kind])
    ]


def _by_layer(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By kind of layer, a configuration with one RoPE, as `rope_parameters`."""
    # transformers goes by rope_scaling where both are there.
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    rest = {key: of for key, of in config.items() if key not in _FORMS}
    nested = {kind: of for kind, of in given.items() if isinstance(of, Mapping)}
    if nested:
        return {kind: {**rest, "rope_parameters": dict(of)} for kind, of in nested.items()}
    whole = {**rest, "rope_parameters": dict(given)}
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    if theta is not None:
        whole["rope_parameters"].setdefault("rope_theta", theta)
    found = {_WHOLE: whole}
    if config.get("rope_local_base_freq"):
        found[_LOCAL] = {**rest, "rope_parameters": {"rope_theta": local_rope_theta(config)}}
    return found


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    if _says_theta(ours) and _says_theta(theirs):
        yield from _compared({"rope_theta": common.rope_theta(ours)},
                             {"rope_theta": common.rope_theta(theirs)})  # fmt: skip
    if all(_says_share(config) for config in (ours, theirs)):
        yield from _compared({"partial_rotary_factor": common.partial_rotary(ours)},
                             {"partial_rotary_factor": common.partial_rotary(theirs)})  # fmt: skip
    mine, others = _scaling(ours), _scaling(theirs)
    kind = mine["rope_type"]
    if kind != others["rope_type"]:
        yield from _compared({"rope_type": kind}, {"rope_type": others["rope_type"]})
    elif kind != "llama3" or not _same_llama3(ours, theirs):
        # What a kind that is not known here takes for a key that is left out is not known either.
        keys = mine.keys() & others.keys() if kind not in _KNOWN else mine.keys() | others.keys()
        yield from _compared({key: mine.get(key) for key in keys},
                             {key: others.get(key) for key in keys})  # fmt: skip


def _compared(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(ours):
        if not same_value(ours[key], theirs[key]):
            yield f"{key}: {_shown(theirs[key])}, in training {_shown(ours[key])}"


def _says_theta(config: Mapping[str, Any]) -> bool:
    return bool(config["rope_parameters"].get("rope_theta") or config.get("rope_theta"))


def _says_share(config: Mapping[str, Any]) -> bool:
    """Is known which share of a head turns? It is all of it in the models with DEFAULTS."""
    share = config["rope_parameters"].get("partial_rotary_factor")
    return bool(
        share or config.get("partial_rotary_factor") or config.get("model_type") in DEFAULTS
    )


def _scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the scaling is computed by, defaults included; rope_type alone where there is none."""
    given = common.rope_scaling(config)
    kind = str(given.get("rope_type", "default"))
    if kind in longrope.NAMES:
        return {
            "rope_type": "longrope",
            "original_max_position_embeddings": longrope.original_context(config),
            "attention_factor": longrope.attention_factor(config),
            "short_factor": given.get("short_factor"),
            "long_factor": given.get("long_factor"),
        }
    attention = given.get("attention_factor", given.get("attn_factor"))
    if kind in _FACTOR_ONLY and given.get("factor") == 1 and attention in (None, 1):
        return {"rope_type": "default"}
    if kind == "yarn":
        context = longrope.original_context(config)
        factor = given.get("factor") or config["max_position_embeddings"] / context
        filled = {**_YARN, **given, "factor": factor, "original_max_position_embeddings": context,
                  "attention_factor": attention or _yarn_attention(given, factor)}  # fmt: skip
        return {"rope_type": kind, **{key: filled[key] for key in _YARN_KEYS}}
    keys = SCALING_KEYS.get(kind, given.keys() - _ELSEWHERE)
    return {"rope_type": kind, **{key: given[key] for key in keys if given.get(key) is not None}}


def _yarn_attention(given: Mapping[str, Any], factor: float) -> float:
    """The factor on the attention where config.json has none (Peng et al. 2023)."""

    def stretched(share: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1.0

    whole, dimensions = given.get("mscale"), given.get("mscale_all_dim")
    if whole and dimensions:
        return stretched(whole) / stretched(dimensions)
    return stretched(1.0)


def _same_llama3(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Several parameters give the same factors: an imported GGUF has the factors alone."""
    mine, others = (
        llama3_factors(
            common.rope_scaling(config), common.rope_theta(config), common.head_size(config)
        )
        for config in (ours, theirs)
    )
    return len(mine) == len(others) and np.allclose(mine, others, rtol=1e-4)


def same_value(one: Any, other: Any) -> bool:
    """Equal, numbers in single precision."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)
    )
    return math.isclose(one, other, rel_tol=_TOLERANCE) if numbers else bool(one == other)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{len(value)} numbers" if isinstance(value, list) else repr(value)
