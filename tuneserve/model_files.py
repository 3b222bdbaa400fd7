"""The JSON files of a checkpoint, read before any library does: their size, shape and sizes.

transformers, PEFT and tokenizers take what these files say: classes to import, expressions to
match, sizes to allocate. They come from strangers, so what a model needs is checked here, and
what would run code is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError

MOST_BYTES = 1 << 20
"""Of a configuration; those in use have at most 20 kB."""
DEEPEST = 32
LARGEST_SIZE = 1 << 24
MOST_LAYERS = 4096
MOST_CONTEXT = 1 << 31

_SIZES = {
    "hidden_size": LARGEST_SIZE, "intermediate_size": LARGEST_SIZE, "head_dim": 1 << 16,
    "moe_intermediate_size": LARGEST_SIZE, "vocab_size": LARGEST_SIZE,
    "num_hidden_layers": MOST_LAYERS, "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16, "max_position_embeddings": MOST_CONTEXT,
    "num_experts": 1 << 16, "num_local_experts": 1 << 16, "n_routed_experts": 1 << 16,
}  # fmt: skip
_REQUIRED = frozenset({"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"})
_WAY = re.compile(r"^_?(attn|experts)_implementation|^_?use_kernels|kernel_config$")
"""Entries that say how attention or experts are computed, or by whose code."""
_WAYS = (
    "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm",
    "batched_mm",
)  # fmt: skip
DTYPES = frozenset(
    {
        "float32", "float", "float16", "half", "bfloat16", "float64", "double", "float8_e4m3fn",
        "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    }
)  # fmt: skip
"""Types of weights, as torch calls them: transformers looks any name up in torch ('auto' and
'torch.float16', which it doesn't find, too)."""
_NATIVE = frozenset({"phi3", "deepseek_v2", "deepseek_v3"})
"""Kinds of models whose published checkpoints still name code that transformers has itself."""


def read_model_json(path: Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The object in a JSON file of a model.

    Raises UsageError for one that is missing, larger than `most_bytes`, nested deeper than DEEPEST,
    no JSON object, has a key twice or a number that JSON does not have.
    """
    try:
        with path.open("rb") as file:
            # A read sets aside as much as it is asked for.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, most_bytes) + 1)
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path)) from None
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    if len(data) > most_bytes:
        raise UsageError(f"is larger than {most_bytes >> 20} MiB", where=str(path))
    return json_object(data, str(path))


def json_object(data: bytes, where: str, *, deepest: int = DEEPEST) -> dict[str, Any]:
    """The JSON object in some bytes; raises UsageError as `read_model_json` does."""
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once_each)
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8 (byte {error.start + 1})", where=where) from None
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}"
        raise UsageError(f"not valid JSON ({error.msg})", where=place) from None
    except RecursionError:
        raise UsageError("not valid JSON (nested too deep)", where=where) from None
    except ValueError as error:
        raise UsageError(f"not valid JSON ({error})", where=where) from None
    if not isinstance(value, dict):
        raise UsageError("not a JSON object", where=where)
    if _depth(value) > deepest:
        raise UsageError(f"nested deeper than {deepest}", where=where)
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:100]!a} stands in it twice")
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
    return depth


def is_size(value: Any, most: int = LARGEST_SIZE) -> bool:
    """Is it an integer from 1 to `most`?"""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def is_finite(value: Any) -> bool:
    """Is it a number?"""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 1e300 and math.isfinite(value)


def check_config(path: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises UsageError for one that names code (`auto_map`), for sizes
    that are no integers within bounds, and for types of weights that torch does not have."""
    config = read_model_json(path)
    check_code(config, str(path))
    _check_dtypes(config, str(path))
    for part, where in _parts(config):
        problems = [
            f"{where}{name} = {shown(part[name])}"
            for name, most in _SIZES.items()
            if part.get(name) is not None and not _fits(part[name], most, name)
        ]
        problems += [
            f"{where}{name} = {shown(part[name])}"
            for name in ("rms_norm_eps", "layer_norm_eps", "rope_theta", "initializer_range")
            if part.get(name) is not None and not (is_finite(part[name]) and part[name] >= 0)
        ]
        problems = problems or [f"{where}{problem}" for problem in _uneven_heads(part)]
        if problems:
            raise UsageError(
                "sizes that no model has", where=str(path), problems=problems,
                hint="Download it again, or ask who made it.",
            )  # fmt: skip
    named = config.get("architectures")
    if named is not None and not are_texts(named):
        raise UsageError(f"architectures is {shown(named)}, no list of names", where=str(path))
    return config


def _uneven_heads(config: Mapping[str, Any]) -> list[str]:
    """Heads that do not share out what they have between them. Where there are none is told by the
    architecture, which knows whether it has some."""
    hidden, heads, groups = (
        config.get(name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    if heads == 0 or groups == 0:
        return []
    told = f"num_attention_heads = {shown(heads)}"
    problems = []
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        problems.append(f"{told}, no multiple of num_key_value_heads = {shown(groups)}")
    own_size = config.get("head_dim") is not None
    if not own_size and isinstance(hidden, int) and isinstance(heads, int) and hidden % heads:
        problems.append(f"{told}, which does not divide hidden_size = {shown(hidden)}")
    return problems


def _check_dtypes(config: Mapping[str, Any], where: str, place: str = "") -> None:
    """Of a configuration and those in it. What quantization says has names of its own."""
    for key in ("dtype", "torch_dtype"):
        given = config.get(key)
        for name in given.values() if isinstance(given, dict) else [given]:
            if name is None:
                continue
            if not isinstance(name, str) or name not in DTYPES:
                raise UsageError(
                    f"{place}{key} is {shown(name)}, which is no type of weights", where=where,
                    hint=f"Known are {', '.join(sorted(DTYPES))}.",
                )  # fmt: skip
    for key, part in config.items():
        if isinstance(part, dict) and key.endswith("_config") and key != "quantization_config":
            _check_dtypes(part, where, f"{place}{key}.")


def _fits(value: Any, most: int, name: str) -> bool:
    """Some models have a size for each layer, and no experts are 0 of them."""
    if isinstance(value, list):
        return 0 < len(value) <= MOST_LAYERS and all(_fits(one, most, name) for one in value)
    least = 1 if name in _REQUIRED else 0
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _parts(config: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    inner = config.get("text_config")
    return [(config, ""), (inner, "text_config.")] if isinstance(inner, dict) else [(config, "")]


def check_code(config: Mapping[str, Any], where: str) -> None:
    """Raise UsageError for a configuration that names Python code, or how something is computed by
    other than a plain name: transformers takes the name of a repository for code to download."""
    for place, value in _named_ways(config):
        names = value.values() if isinstance(value, dict) else [value]
        if any(name not in (None, False, *_WAYS) for name in names):
            raise UsageError(
                f"{place} is {shown(value)}, which may be code to download",
                where=where,
                hint=f"Take it out of the file; known are {', '.join(_WAYS)}.",
            )
    for part, place in _parts(config):
        named = part.get("auto_map")
        if not isinstance(named, dict | None):
            raise UsageError(f"{place}auto_map is {shown(named)}, no object", where=where)
        if named and part.get("model_type") not in _NATIVE:
            raise UsageError(
                f"{place}auto_map names Python code of the checkpoint's own, which is never run",
                where=where,
                hint="If transformers has this architecture itself, take auto_map out of the file.",
            )


def unused_code(config: Mapping[str, Any]) -> list[str]:
    """The Python code that a configuration names beside an architecture that transformers has
    itself."""
    found = []
    for part, _ in _parts(config):
        named = part.get("auto_map")
        if part.get("model_type") in _NATIVE and isinstance(named, dict):
            found += [shown(name) for name in named.values()]
    return found


def _named_ways(config: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What a configuration and those in it say of how something is computed."""
    if isinstance(config, list):
        for number, one in enumerate(config):
            yield from _named_ways(one, f"{place}[{number}]")
    if not isinstance(config, dict):
        return
    for name, value in config.items():
        path = f"{place}.{name}".removeprefix(".")
        if _WAY.search(name):
            yield path, value
        else:
            yield from _named_ways(value, path)


def are_texts(value: Any) -> bool:
    """Is it a list of texts?"""
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def shown(value: Any) -> str:
    """A value as an error shows it: short, and nothing a terminal would act on."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
