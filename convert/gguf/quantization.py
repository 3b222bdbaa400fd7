"""Which type each tensor gets, as llama.cpp's quantizer chooses.

A quantization such as Q4_K_M is a mixture: most matrices get the plain type, the ones that hurt
most when rounded (attention values, FFN down, output) get more bits in some layers, and a row
length that is no multiple of a type's block falls back to a type that fits. The rules are those of
`llama_tensor_get_type` in llama.cpp, for dense models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Mixture:
    """A quantization: `plain`, the type of most tensors, and `file_type`, its number in a GGUF."""

    plain: str
    file_type: int


MIXTURES: Mapping[str, Mixture] = {
    "Q4_K_M": Mixture("Q4_K", 15),
    "Q4_K_S": Mixture("Q4_K", 14),
    "Q5_K_M": Mixture("Q5_K", 17),
    "Q5_K_S": Mixture("Q5_K", 16),
    "Q6_K": Mixture("Q6_K", 18),
    "Q8_0": Mixture("Q8_0", 7),
    "Q4_0": Mixture("Q4_0", 2),
    "IQ4_XS": Mixture("IQ4_XS", 30),
    "F16": Mixture("F16", 1),
    "BF16": Mixture("BF16", 32),
}
BLOCK = {
    "F32": 1, "F16": 1, "BF16": 1, "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32,
    "IQ4_NL": 32, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256, "IQ4_XS": 256,
}  # fmt: skip
FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
UNQUANTIZED = ("F32", "F16", "BF16")


class Role(Enum):
    """What a tensor is for, as far as the choice of its type goes."""

    EMBEDDING = "token_embd.weight"
    OUTPUT = "output.weight"
    ATTENTION_V = "attn_v.weight"
    ATTENTION_QKV = "attn_qkv.weight"
    FFN_DOWN = "ffn_down"
    OTHER = ""

    @classmethod
    def of(cls, name: str) -> Role:
        for role in (cls.EMBEDDING, cls.OUTPUT):
            if name == role.value:
                return role
        for role in (cls.ATTENTION_QKV, cls.ATTENTION_V, cls.FFN_DOWN):
            if role.value in name:
                return role
        return cls.OTHER


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
    has_imatrix: bool = False,
) -> list[Choice]:
    """The type of each tensor, in the order in which llama.cpp writes them.

    `layers`: number of blocks; `grouping`: query heads per key-value head.
    """
    mixture = MIXTURES[quantization]
    names = sorted(shapes, key=loader_order)
    values = [n for n in names if Role.of(n) in (Role.ATTENTION_V, Role.ATTENTION_QKV)]
    downs = [n for n in names if Role.of(n) is Role.FFN_DOWN]
    chooser = _Chooser(
        quantization, mixture.plain, tied=Role.OUTPUT.value not in shapes, layers=layers,
        grouping=grouping, has_imatrix=has_imatrix, value_tensors=len(values),
    )  # fmt: skip
    choices = []
    for name in names:
        if not is_quantizable(name, shapes[name]):
            choices.append(Choice(name, "F32"))
        elif mixture.plain in UNQUANTIZED:
            choices.append(Choice(name, mixture.plain))
        else:
            role = Role.of(name)
            number = {
                Role.ATTENTION_V: values, Role.ATTENTION_QKV: values, Role.FFN_DOWN: downs
            }.get(role, [name]).index(name)  # fmt: skip
            wanted = chooser.wanted(role, number, shapes[name][-1])
            fitting = fitting_type(wanted, shapes[name][-1])
            choices.append(Choice(name, fitting, None if fitting == wanted else wanted))
    return choices


def is_quantizable(name: str, shape: Shape) -> bool:
    """Matrices are; norms, biases and RoPE factors stay float32."""
    return len(shape) >= 2 and name.endswith("weight") and "_norm.weight" not in name


def fitting_type(wanted: str, columns: int) -> str:
    """`wanted`, or what holds a row of `columns` that is no multiple of its block."""
    if columns % BLOCK[wanted] == 0:
        return wanted
    smaller = FALLBACK.get(wanted, wanted)
    return smaller if columns % BLOCK[smaller] == 0 else "F16"


@dataclass(frozen=True)
class _Chooser:
    quantization: str
    plain: str
    tied: bool
    layers: int
    grouping: int
    has_imatrix: bool
    value_tensors: int

    def wanted(self, role: Role, number: int, columns: int) -> str:
        """The type for the `number`-th tensor of its role, whatever its row length."""
        if role is Role.OUTPUT or (role is Role.EMBEDDING and self.tied):
            if columns % BLOCK[self.plain] != 0 or self.plain == "Q8_0":
                return "Q8_0"
            return "Q6_K"
        if role in (Role.ATTENTION_V, Role.ATTENTION_QKV):
            return self._attention_values(number)
        if role is Role.FFN_DOWN:
            return self._ffn_down(number)
        return self.plain

    def _attention_values(self, number: int) -> str:
        chosen = self.plain
        if self.quantization == "IQ4_XS" and self.grouping >= 4:
            chosen = "Q5_K"
        elif self.quantization in ("Q4_K_M", "Q5_K_M") and more_bits(number, self.value_tensors):
            chosen = "Q6_K"
        elif self.quantization == "Q4_K_S" and number < 4:
            chosen = "Q5_K"
        # Such a model is what llama.cpp takes for one of 70B.
        large = self.layers == 80 and self.grouping > 1
        return "Q5_K" if large and chosen == "Q4_K" else chosen

    def _ffn_down(self, number: int) -> str:
        first_layers = number < self.layers // 8
        if self.quantization in ("Q4_K_M", "Q5_K_M") and more_bits(number, self.layers):
            return "Q6_K"
        if self.quantization == "Q4_K_S" and first_layers:
            return "Q5_K"
        if self.quantization == "IQ4_XS" and first_layers and not self.has_imatrix:
            return "Q5_K"
        if self.quantization == "Q4_0" and first_layers and self.has_imatrix:
            return "Q4_1"
        return self.plain


def more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers and every third one between get more bits."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
