"""Do a GGUF's sizes fit each other and its tensors? The bounds are those of llama.cpp's loader,
which ends the process beyond them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from tuneserve.gguf.reader import GGUFFile, shown

MOST_LAYERS = 512
MOST_EXPERTS = 1024
LARGEST_INT32 = 2**31 - 1
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")

# Whole numbers, or lists of them by layer.
_COUNTS = (
    "block_count", "context_length", "embedding_length", "vocab_size", "expert_count",
    "expert_group_count", "expert_group_used_count", "expert_shared_count",
    "nextn_predict_layers", "attention.key_length", "attention.value_length",
    "rope.dimension_count", "rope.scaling.original_context_length", "leading_dense_block_count",
    "ssm.inner_size", "ssm.time_step_rank", "ssm.group_count",
)  # fmt: skip
_BY_LAYER = (
    "attention.head_count", "attention.head_count_kv", "feed_forward_length",
    "expert_used_count", "expert_feed_forward_length",
)  # fmt: skip
# One of the whole model; with 0 nothing is computed.
_AT_LEAST_ONE = ("block_count", "context_length", "embedding_length")
# All their values are small additions to a variance.
_EPSILON = re.compile(r"(layer_norm|layer_norm_rms|group_norm)_epsilon")
_FINITE = re.compile(r"rope\.(freq_base|scal).*|attention\.scale")
# They write an expert count of 1 for a model without experts.
_ONE_EXPERT_IS_NONE = ("hunyuan-dense", "hunyuan_vl")
# State space models whose inner size has to be twice the embedding's, or is shared out over heads
# and groups.
_TWICE_INNER = ("jamba", "granitehybrid")
_INNER_BY_HEADS = ("mamba2", "granitehybrid", "nemotron_h", "nemotron_h_moe", "falcon-h1")
# Some of its layers compute nothing and have no tensors.
_WITH_EMPTY_LAYERS = ("deci",)


def hyperparameter_problems(file: GGUFFile, *, weights: bool = True) -> Iterator[str]:
    """What is wrong, one line for each key. `weights`: they are compared with the tensors."""
    values = _Values(file)
    wrong = dict(_type_problems(values))
    yield from wrong.values()
    if wrong:
        return  # the rest computes with them
    yield from _bounds(values)
    yield from _floats(values)
    yield from _experts(values)
    yield from _state_space(values)
    if weights:
        yield from _layers(file, values)
        yield from _heads(file, values)


class _Values:
    """The entries under the architecture's prefix, and their full names."""

    def __init__(self, file: GGUFFile) -> None:
        self.prefix = f"{file.architecture}."
        self.architecture = file.architecture
        self.entries = {
            key.removeprefix(self.prefix): value
            for key, value in file.metadata.items()
            if key.startswith(self.prefix)
        }

    def number(self, key: str, default: int = 0) -> int:
        """The largest, where there is one for each layer."""
        value = self.entries.get(key, default)
        return int(max(value, default=default) if isinstance(value, list) else value)

    def by_layer(self, key: str) -> list[int]:
        """One for each layer, or one for all."""
        value = self.entries.get(key)
        if value is None:
            return []
        return list(value) if isinstance(value, list) else [value]

    def shown(self, key: str) -> str:
        return f"{self.prefix}{key[:60]} is {shown(self.entries[key])}"


def _type_problems(values: _Values) -> Iterator[tuple[str, str]]:
    for key in (*_COUNTS, *_BY_LAYER):
        value = values.entries.get(key)
        if value is None:
            continue
        found = value if isinstance(value, list) and key not in _AT_LEAST_ONE else [value]
        if not all(type(one) is int for one in found):
            yield key, f"{values.shown(key)}, and must be a whole number"
        elif any(not 0 <= one <= LARGEST_INT32 for one in found):
            yield key, f"{values.shown(key)}, which is out of bounds"
    for key, value in values.entries.items():
        if (_EPSILON.search(key) or _FINITE.fullmatch(key)) and key not in _COUNTS:
            text = key.endswith(("scaling.type", "finetuned"))
            if not text and not isinstance(value, int | float | list):
                yield key, f"{values.shown(key)}, and must be a number"


def _bounds(values: _Values) -> Iterator[str]:
    for key in _AT_LEAST_ONE:
        if key in values.entries and not values.number(key):
            yield f"{values.shown(key)}, and must be 1 at least"
    layers = values.number("block_count")
    if layers > MOST_LAYERS:
        yield f"{values.shown('block_count')}, and llama.cpp takes {MOST_LAYERS} layers at most"
    if layers and values.number("nextn_predict_layers") > layers:
        yield f"{values.shown('nextn_predict_layers')}, and it has {layers} layers"
    for key in _BY_LAYER:
        value = values.entries.get(key)
        if layers and isinstance(value, list) and len(value) != layers:
            yield f"{values.shown(key)}, and must have one for each of {layers} layers"
    scaling = values.entries.get("rope.scaling.type", "none")
    if scaling not in ROPE_SCALINGS:
        known = ", ".join(ROPE_SCALINGS)
        yield f"{values.shown('rope.scaling.type')}, and llama.cpp knows {known}"


def _floats(values: _Values) -> Iterator[str]:
    for key, value in values.entries.items():
        numbers = value if isinstance(value, list) else [value]
        floats = [one for one in numbers if isinstance(one, float)]
        if any(math.isnan(one) for one in floats):
            yield f"{values.prefix}{key} is not a number (NaN)"
        elif _FINITE.fullmatch(key) and not all(map(math.isfinite, floats)):
            yield f"{values.shown(key)}, and must be finite"
        elif _EPSILON.search(key) and not all(0 <= one < math.inf for one in floats):
            yield f"{values.shown(key)}, and must be finite and not below 0"


def _experts(values: _Values) -> Iterator[str]:
    count, used = (
        values.number("expert_count"),
        max(values.by_layer("expert_used_count"), default=0),
    )
    if values.architecture in _ONE_EXPERT_IS_NONE and count <= 1:
        return
    groups = values.number("expert_group_count")
    if count > MOST_EXPERTS:
        yield f"{values.shown('expert_count')}, and llama.cpp takes {MOST_EXPERTS} at most"
    elif used > count or (count and not used):
        yield f"{values.prefix}expert_used_count is {used} of {count} experts"
    elif groups and (groups >= count or (groups > 1 and count % groups)):
        yield f"{values.shown('expert_group_count')} for {count} experts"
    elif groups > 1 and not 0 < values.number("expert_group_used_count") < groups:
        used = values.number("expert_group_used_count")
        yield f"{values.prefix}expert_group_used_count is {used} of {groups} groups"


def _state_space(values: _Values) -> Iterator[str]:
    inner, embedding = values.number("ssm.inner_size"), values.number("embedding_length")
    if "ssm.inner_size" not in values.entries:
        return
    if values.architecture in _TWICE_INNER and inner != 2 * embedding:
        yield f"{values.shown('ssm.inner_size')}, and must be twice the embedding's {embedding}"
    for key in ("ssm.time_step_rank", "ssm.group_count"):
        shares = values.number(key)
        if values.architecture in _INNER_BY_HEADS and shares and inner % shares:
            yield f"{values.shown('ssm.inner_size')}, and can't be shared out by {key} {shares}"


def _layers(file: GGUFFile, values: _Values) -> Iterator[str]:
    """The layers that it announces and those whose tensors are there."""
    found = {int(match[1]) for match in map(_LAYER.match, file.tensors) if match}
    layers = values.number("block_count")
    if not found or "block_count" not in values.entries or layers > MOST_LAYERS:
        return
    first = layers - values.number("nextn_predict_layers")  # of those a file may leave out
    missing = sorted(set(range(first)) - found)
    if values.architecture in _WITH_EMPTY_LAYERS:
        missing = []
    if missing:
        yield (
            f"{values.shown('block_count')}, and it lacks all tensors of {len(missing)} layers, "
            f"the first of them blk.{missing[0]}"
        )
    if beyond := max(found) - layers + 1 if max(found) >= layers else 0:
        yield f"{values.shown('block_count')}, and it has tensors of {beyond} layers more"


_LAYER = re.compile(r"blk\.(\d{1,9})\.")


def _heads(file: GGUFFile, values: _Values) -> Iterator[str]:
    """Queries share keys and values, so many heads one; a model without attention has 0 heads."""
    heads, pairs = (
        values.by_layer("attention.head_count"),
        values.by_layer("attention.head_count_kv"),
    )
    attends = any(".attn_q." in name or ".attn_qkv." in name for name in file.tensors)
    if attends and heads and not any(heads):
        yield f"{values.shown('attention.head_count')}, and it has tensors of attention"
    if attends and pairs and not any(pairs) and any(".attn_k." in name for name in file.tensors):
        yield f"{values.shown('attention.head_count_kv')}, and it has tensors of attention"
    if len(heads) == 1:
        heads *= len(pairs)
    if len(pairs) == 1:
        pairs *= len(heads)
    for one, pair in zip(heads, pairs, strict=False):
        if pair and one % pair:
            yield (
                f"{values.prefix}attention.head_count is {one}, and can't be shared out over "
                f"{pair} heads of attention.head_count_kv"
            )
            return
