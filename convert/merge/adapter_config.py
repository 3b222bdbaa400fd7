"""adapter_config.json of a PEFT adapter, checked before PEFT or a merge goes by it.

Its patterns are regular expressions, which PEFT and the merge match with every module's name:
those that may take for ever are refused (tuneserve.expressions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from re import Pattern, compile, error
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.expressions import ExpressionError, check_expression
from tuneserve.model_files import are_texts, is_finite, is_size, read_model_json, shown

LARGEST_RANK = 1 << 16
MOST_PATTERNS = 1 << 14
MOST_FREE_PATTERNS = 16
"""Expressions with more than one part of free length; one costs up to 0.1 s a name."""
# Ways to begin that take the adapter's first value out of the base's weights, or round these.
CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
UNSUPPORTED = ("fan_in_fan_out", "megatron_config", "alora_invocation_tokens")
"""What of a configuration a merge can't do. An activated LoRA acts on a part of the tokens only."""
_AS_SET = {"r": "r", "lora_alpha": "alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}
"""What a LoRA is computed by, and what the run's settings call it."""
_NAMED = 5

_TEXTS = ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save",
          "target_parameters")  # fmt: skip


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """The configuration. Raises UsageError for one that is damaged, dangerous, or of a kind that
    can't be merged."""
    path = directory / "adapter_config.json"
    config = read_model_json(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        told = kind if isinstance(kind, str) and kind.isidentifier() else shown(kind)
        raise UsageError(f"this kind of adapter can't be merged: peft_type {told}", where=str(path))
    _check_values(config, path)
    _check_patterns(config, path)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGE_THE_BASE):
        raise UsageError(
            f"init_lora_weights = {shown(start)} has trained on a changed base, which is not here",
            where=str(path),
            hint="Convert it with PEFT first: save_pretrained(DIRECTORY, "
            "path_initial_model_for_weight_conversion=INITIAL).",
        )
    if unsupported := [name for name in UNSUPPORTED if config.get(name)]:
        raise UsageError(
            f"this kind of adapter can't be merged: {', '.join(unsupported)}", where=str(path)
        )
    return config


def check_scale_as_trained(directory: Path, train: Mapping[str, Any]) -> None:
    """Raise UsageError if the adapter in `directory` has another rank, or would be multiplied by
    another factor, than what the run's settings `train` say. What they leave out is not looked
    at."""
    path = directory / "adapter_config.json"
    config = read_adapter_config(directory)
    problems = [
        f"{key} is {shown(config.get(key))}, trained with {name} = {shown(train[name])}"
        for key, name in _AS_SET.items()
        if name in train and (config.get(key) or False) != train[name]
    ]
    ranks, alphas = (config.get(f"{name}_pattern") or {} for name in ("rank", "alpha"))
    usual = factor(config, config["r"], config["lora_alpha"])
    for module in sorted({*ranks, *alphas}):
        # PEFT gives what it fuses a multiple of both.
        rank, alpha = ranks.get(module, config["r"]), alphas.get(module, config["lora_alpha"])
        scale = factor(config, rank, alpha)
        if {"r", "alpha"} <= train.keys() and not math.isclose(scale, usual, rel_tol=1e-6):
            problems.append(
                f"{shown(module)} has rank {rank} and alpha {alpha} in rank_pattern and "
                f"alpha_pattern: a factor of {scale:g}, of the others {usual:g}"
            )
    if problems:
        raise UsageError(
            "contradicts the settings in run.json that this run was trained with",
            where=str(path),
            problems=problems[:_NAMED],
            hint="Restore the file that training wrote, or train again.",
        )


def factor(config: Mapping[str, Any], rank: int, alpha: float) -> float:
    """What B A is multiplied by."""
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_values(config: Mapping[str, Any], path: Path) -> None:
    problems = []
    if not is_size(config.get("r"), LARGEST_RANK):
        problems.append(f"r is no positive number up to {LARGEST_RANK}: {shown(config.get('r'))}")
    if not _is_scale(config.get("lora_alpha")):
        problems.append(f"lora_alpha is no positive number: {shown(config.get('lora_alpha'))}")
    for name, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_scale)):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict) or not all(map(fits, patterns.values())):
            problems.append(f"{name} gives other things than positive numbers")
    for name in _TEXTS:
        value = config.get(name)
        if not (value is None or isinstance(value, str) or are_texts(value)):
            problems.append(f"{name} is {shown(value)}, no names")
    layers = config.get("layers_to_transform")
    if not (layers is None or _is_place(layers) or _are_places(layers)):
        problems.append(f"layers_to_transform is {shown(layers)}, no layers' numbers")
    tokens = config.get("trainable_token_indices")
    named = list(tokens.values()) if isinstance(tokens, dict) else [tokens or []]
    if not all(map(_are_places, named)):
        problems.append("trainable_token_indices are no tokens' numbers")
    problems += [
        f"{name} is {shown(config.get(name))}, neither true nor false"
        for name in ("use_rslora", "use_dora")
        if not isinstance(config.get(name), bool | None)
    ]
    if not isinstance(config.get("init_lora_weights"), bool | str | None):
        problems.append("init_lora_weights is no name")
    if problems:
        raise UsageError("this adapter is damaged", where=str(path), problems=problems)


def _is_rank(value: Any) -> bool:
    return is_size(value, LARGEST_RANK)


def _is_scale(value: Any) -> bool:
    return is_finite(value) and 0 < value <= 1e9


def _is_place(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _are_places(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_place, value))


def _check_patterns(config: Mapping[str, Any], path: Path) -> None:
    """Raise UsageError for expressions that are none, or that may take for ever."""
    patterns = [*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})]
    patterns += [
        config[name]
        for name in ("target_modules", "exclude_modules", "layers_pattern")
        if isinstance(config.get(name), str)
    ]
    if are_texts(config.get("layers_pattern")):
        patterns += config["layers_pattern"]
    if len(patterns) > MOST_PATTERNS:
        raise UsageError(f"has more than {MOST_PATTERNS} patterns", where=str(path))
    problems = []
    free = 0
    for pattern in patterns:
        try:
            free += check_expression(pattern) > 1
            compile(pattern)
        except (ExpressionError, error, RecursionError, OverflowError) as reason:
            problems.append(f"{shown(pattern)}: {reason}")
    if free > MOST_FREE_PATTERNS:
        problems.append(f"{free} of them have several parts of free length")
    if problems:
        raise UsageError(
            "has patterns of modules that may take for ever to match, or are none",
            where=str(path), problems=problems, hint="Name the modules themselves.",
        )  # fmt: skip


@lru_cache(maxsize=MOST_PATTERNS)
def module_pattern(pattern: str) -> Pattern[str]:
    """A key of rank_pattern or alpha_pattern as PEFT matches it: the end of a module's name."""
    return compile(rf"(.*\.)?({pattern})$")
