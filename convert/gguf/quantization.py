"""Which type each tensor gets, as llama.cpp's quantizer chooses.

A quantization such as Q4_K_M is a mixture: most matrices get the plain type, the ones that hurt
most when rounded (attention values, FFN down, output) get more bits in some layers, and a row
length that is no multiple of a type's block falls back to a type that fits. The rules are those of
`llama_tensor_get_type` in llama.cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Mixture:
    """A quantization: `plain`, the type of most tensors, and `file_type`, its number in a GGUF."""

    plain: str
    file_type: int


AUTO = "auto"
"""Types chosen for each tensor (convert/mixture)."""
MIXTURES: Mapping[str, Mixture] = {
    "Q4_K_M": Mixture("Q4_K", 15),
    "Q4_K_S": Mixture("Q4_K", 14),
    "Q5_K_M": Mixture("Q5_K", 17),
    "Q5_K_S": Mixture("Q5_K", 16),
    "Q6_K": Mixture("Q6_K", 18),
    "Q8_0": Mixture("Q8_0", 7),
    "Q5_0": Mixture("Q5_0", 8),
    "Q5_1": Mixture("Q5_1", 9),
    "Q4_0": Mixture("Q4_0", 2),
    "Q4_1": Mixture("Q4_1", 3),
    "IQ4_NL": Mixture("IQ4_NL", 25),
    "IQ4_XS": Mixture("IQ4_XS", 30),
    "Q3_K_L": Mixture("Q3_K", 13),
    "Q3_K_M": Mixture("Q3_K", 12),
    "Q3_K_S": Mixture("Q3_K", 11),
    "IQ3_M": Mixture("IQ3_S", 27),
    "IQ3_S": Mixture("IQ3_S", 26),
    "IQ3_XS": Mixture("IQ3_S", 22),
    "IQ3_XXS": Mixture("IQ3_XXS", 23),
    "Q2_K": Mixture("Q2_K", 10),
    "Q2_K_S": Mixture("Q2_K", 21),
    "IQ2_M": Mixture("IQ2_S", 29),
    "IQ2_S": Mixture("IQ2_XS", 28),
    "IQ2_XS": Mixture("IQ2_XS", 20),
    "IQ2_XXS": Mixture("IQ2_XXS", 19),
    "MXFP4_MOE": Mixture("MXFP4", 38),
    "F16": Mixture("F16", 1),
    "BF16": Mixture("BF16", 32),
}
BLOCK = {
    "F32": 1, "F16": 1, "BF16": 1, "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32,
    "IQ4_NL": 32, "MXFP4": 32, "Q2_K": 256, "Q3_K": 256, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256,
    "IQ4_XS": 256, "IQ3_S": 256, "IQ3_XXS": 256, "IQ2_S": 256, "IQ2_XS": 256, "IQ2_XXS": 256,
}  # fmt: skip
FALLBACK = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL", "IQ3_S": "IQ4_NL", "IQ3_XXS": "IQ4_NL", "IQ2_S": "IQ4_NL",
    "IQ2_XS": "IQ4_NL", "IQ2_XXS": "IQ4_NL",
}  # fmt: skip
TWO_BITS = ("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS")
NEEDS_IMATRIX = (*TWO_BITS, "IQ3_XS", "IQ3_XXS", "Q2_K_S")
"""Mixtures with tensors that llama.cpp's quantizer rounds with an importance matrix only."""
# By part of the name and mixture: the type that is not the mixture's plain one in any layer.
ROLE_TYPES: Mapping[str, Mapping[str, str]] = {
    "token_embd.weight": {
        "IQ2_XXS": "Q2_K", "IQ2_XS": "Q2_K", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S",
        "IQ3_XXS": "IQ3_S",
    },
    "attn_q.weight": {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"},
    "attn_k.weight": {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"},
    "attn_output.weight": {
        "Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K", "IQ3_XXS": "IQ3_S",
        "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S",
    },
}  # fmt: skip
UNQUANTIZED = ("F32", "F16", "BF16")
_UNQUANTIZABLE = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "ssm_conv1d.weight",
    "shortconv.conv.weight",
)  # fmt: skip
# Mixtures that give attention's output more bits where there are eight experts.
_FINE_OUTPUT = (
    *TWO_BITS, "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "IQ4_NL",
    "IQ4_XS", "Q4_K_S", "Q4_K_M",
)  # fmt: skip
# What llama.cpp takes for attention values.
_VALUES = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")


@dataclass(frozen=True)
class Choice:
    """A tensor's type; `wanted` is the type its row length did not allow, if so."""

    name: str
    type: str
    wanted: str | None = None


def loader_order(name: str) -> tuple[int, str]:
    """Sort key of llama.cpp's model loader: tensors outside the blocks, then block by block."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (int(match.group(1)) if match else -1, name)


def choose_types(
    shapes: Mapping[str, Shape],
    quantization: str,
    *,
    layers: int,
    grouping: int,
    experts: int = 0,
    has_imatrix: bool = False,
    overrides: Mapping[str, str] | None = None,
    kept: Mapping[str, str] | None = None,
) -> list[Choice]:
    """The type of each tensor, in the order in which llama.cpp writes them.

    `layers`: number of blocks; `grouping`: query heads per key-value head; `experts`: of a layer,
    in a mixture of them. `overrides`: the type, by name, of matrices that are not to have the
    mixture's; a row length that it does not allow falls back as everywhere. `kept`: the type of
    tensors that are stored in it and are not made anew.
    """
    quantization = like(quantization)
    chosen = overrides or {}
    plain = MIXTURES[quantization].plain
    names = sorted(shapes, key=loader_order)
    quantizable = [name for name in names if is_quantizable(name, shapes[name])]
    values = [name for name in quantizable if any(kind in name for kind in _VALUES)]
    downs = [name for name in quantizable if "ffn_down" in name]
    output = "output.weight" if "output.weight" in shapes else "token_embd.weight"

    def wanted(name: str, columns: int) -> str:
        """The type by the tensor's role, whether its row length allows it or not."""
        if plain == "MXFP4":
            return "MXFP4" if len(shapes[name]) == 3 else "Q8_0"
        if name == output:
            if columns % BLOCK[plain] or plain == "Q8_0":
                return "Q8_0"
            return "Q5_K" if quantization in (*TWO_BITS, "IQ3_XXS") else "Q6_K"
        if better := _beside_experts(quantization, name, experts, is_values=name in values):
            return better
        if name in values:
            number, count = values.index(name), len(values)
            return _attention_values(quantization, number, count, layers, grouping)
        if name in downs:
            by_layer = experts > 1 and quantization not in TWO_BITS
            number = loader_order(name)[0] if by_layer else downs.index(name)
            if quantization == "IQ3_M" and experts == 8 and more_bits(number, layers):
                return "Q4_K"
            return _ffn_down(quantization, number, layers, has_imatrix)
        if quantization == "IQ3_XS" and ("ffn_gate" in name or "ffn_up" in name):
            middle = layers // 8 <= loader_order(name)[0] < 7 * layers // 8
            return "IQ3_XXS" if middle else plain
        role = next((role for role in ROLE_TYPES if role in name), "")
        return ROLE_TYPES.get(role, {}).get(quantization, plain)

    choices = []
    for name in names:
        columns = shapes[name][-1]
        if kept and name in kept:
            choices.append(Choice(name, kept[name]))
        elif not is_quantizable(name, shapes[name]):
            choices.append(Choice(name, "F32"))
        elif plain in UNQUANTIZED:
            choices.append(Choice(name, plain))
        else:
            best = chosen.get(name) or wanted(name, columns)
            fitting = fitting_type(best, columns)
            choices.append(Choice(name, fitting, None if fitting == best else best))
    return choices


def like(quantization: str) -> str:
    """The mixture whose rules hold where nothing else is said: its own, for AUTO Q4_K_M's."""
    return "Q4_K_M" if quantization == AUTO else quantization


def file_type(choices: Sequence[Choice], shapes: Mapping[str, Shape]) -> int:
    """The file type of a mix: that of the type which holds most of the weights."""
    weights: Counter[str] = Counter()
    for choice in choices:
        weights[choice.type] += prod(shapes[choice.name])
    kind = weights.most_common(1)[0][0]
    return next((m.file_type for m in MIXTURES.values() if m.plain == kind), 0)


def is_quantizable(name: str, shape: Shape) -> bool:
    """Matrices are; norms, biases, RoPE factors, kernels of convolutions and what routes to
    experts stay float32."""
    matrix = len(shape) >= 2 and name.endswith("weight")
    return matrix and not any(kind in name for kind in _UNQUANTIZABLE)


def fitting_type(wanted: str, columns: int) -> str:
    """`wanted`, or what holds a row of `columns` that is no multiple of its block."""
    if columns % BLOCK[wanted] == 0:
        return wanted
    smaller = FALLBACK.get(wanted, wanted)
    return smaller if columns % BLOCK[smaller] == 0 else "F16"


def _attention_values(
    quantization: str, number: int, count: int, layers: int, grouping: int
) -> str:
    """The type of the `number`-th of `count` matrices of attention values."""
    chosen = MIXTURES[quantization].plain
    grouped = grouping >= 4
    if quantization in TWO_BITS:
        finer = "IQ3_S" if quantization in ("IQ2_S", "IQ2_M") else "Q2_K"
        return "Q4_K" if grouped else finer
    if quantization in ("IQ4_XS", "IQ4_NL") and grouped:
        chosen = "Q5_K"
    elif quantization in ("Q4_K_M", "Q5_K_M") and more_bits(number, count):
        chosen = "Q6_K"
    elif quantization == "Q4_K_S" and number < 4:
        chosen = "Q5_K"
    elif quantization == "Q2_K":
        chosen = "Q4_K" if grouped else "Q3_K"
    elif quantization in ("Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ3_S") and grouped:
        chosen = "Q4_K"
    elif quantization == "Q3_K_M":
        chosen = "Q5_K" if number < 2 else "Q4_K"
    elif quantization in ("Q3_K_L", "IQ3_M"):
        chosen = {"Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}[quantization]
    # Such a model is what llama.cpp takes for one of 70B.
    large = layers == 80 and grouping > 1
    return "Q5_K" if large and chosen in ("Q3_K", "Q4_K") else chosen


def _beside_experts(quantization: str, name: str, experts: int, *, is_values: bool) -> str | None:
    """The type of one of attention's matrices in a mixture of experts: beside them it is small.
    None: the usual one."""
    two_bits = quantization in TWO_BITS
    if two_bits and is_values and experts >= 4:
        return "Q4_K"
    if experts != 8:
        return None
    if is_values or "attn_k.weight" in name:
        return "Q4_K" if two_bits else "Q8_0"
    if "attn_output.weight" in name:
        return "Q5_K" if quantization in _FINE_OUTPUT else MIXTURES[quantization].plain
    return None


def _ffn_down(quantization: str, number: int, layers: int, has_imatrix: bool) -> str:
    """The type of the `number`-th FFN down matrix."""
    first_layers = number < layers // 8
    if quantization in ("Q4_K_M", "Q5_K_M") and more_bits(number, layers):
        return "Q6_K"
    if quantization in ("IQ4_XS", "IQ4_NL") and first_layers and not has_imatrix:
        return "Q5_K"
    if quantization in ("Q4_0", "Q5_0") and first_layers and has_imatrix:
        return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[quantization]
    if quantization == "Q3_K_M":
        return "Q5_K" if number < layers // 16 else "Q4_K"
    everywhere = {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}
    in_first_layers = {
        "Q4_K_S": "Q5_K", "Q2_K_S": "Q4_K", "IQ3_M": "Q4_K", "IQ2_M": "IQ3_S", "IQ2_S": "IQ3_S",
        "IQ2_XS": "Q2_K", "IQ2_XXS": "Q2_K",
    }  # fmt: skip
    if first_layers and quantization in in_first_layers:
        return in_first_layers[quantization]
    return everywhere.get(quantization, MIXTURES[quantization].plain)


def more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers and every third one between get more bits."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
