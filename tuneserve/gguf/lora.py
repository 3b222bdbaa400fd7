"""Does a LoRA GGUF belong to a base model? Checked before llama.cpp reads the file.

llama.cpp refuses an adapter of another architecture, for tensors that the base lacks, and of other
columns or rows. A value of another type than it expects ends its process, as do factors that its
matrix multiplication can't take; these are found here.
Format: `NAME.lora_a` [r, columns], `NAME.lora_b` [rows, r], with the number of experts before; of
the embedding `lora_a` [tokens, r], `lora_b` [columns, r].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import ARCHITECTURES
from tuneserve.gguf.reader import ARRAY, STRING, GGUFFile, GGUFTensor, shown

FACTOR_TYPES = ("F32", "F16", "BF16", "Q8_0")
"""What adapters are made of, and every backend multiplies with."""

INVOCATION = "adapter.alora.invocation_tokens"
MOST_INVOCATION = 256
"""Tokens of an invocation sequence, which every prompt is searched for."""

_FLOAT32 = 6
_EMBEDDING = "token_embd.weight"
_OUTPUT = "output.weight"
_HINT = "It must be a LoRA GGUF made for this base model."

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AdapterBase:
    """What of a base model's GGUF an adapter has to fit: architecture, tensor shapes [rows,
    columns], number of tokens (0: not known). `whole`: all tensors are in `shapes`, not those of a
    first file of several alone."""

    architecture: str
    shapes: Mapping[str, Shape]
    whole: bool = True
    n_vocab: int = 0

    @classmethod
    def read(cls, path: Path) -> AdapterBase:
        """From a GGUF's header. Raises UsageError if it can't be read."""
        header = GGUFFile(path)
        shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
        return cls(
            header.architecture,
            shapes,
            whole=header.get("split.count", 1) in (0, 1),
            n_vocab=len(header.get("tokenizer.ggml.tokens", ())),
        )


def check_adapter(adapter: GGUFFile, base: AdapterBase, *, where: str) -> list[str]:
    """Raise UsageError, naming the file as `where`, unless llama.cpp can compute with this adapter
    on this base. Returns the names of tensors in it that llama.cpp leaves out (norms)."""
    problems = [*_metadata_problems(adapter, base)]
    left_out = [name for name in adapter.tensors if name.endswith("_norm.weight")]
    if not problems:
        problems += _tensor_problems(adapter, base, left_out)
    if problems:
        raise UsageError(
            "can't load this adapter: it does not fit this model",
            where=where, problems=problems, hint=_HINT,
        )  # fmt: skip
    return left_out


def invocation_tokens(adapter: GGUFFile) -> tuple[int, ...]:
    """The tokens that switch an activated adapter (aLoRA) on; none of another."""
    return tuple(adapter.get(INVOCATION, ()))


def _invocation_problems(adapter: GGUFFile, base: AdapterBase) -> Iterator[str]:
    tokens = adapter.get(INVOCATION)
    if adapter.value_types.get(INVOCATION) != ARRAY or not all(
        isinstance(token, int) and token >= 0 for token in tokens
    ):
        yield f"its {INVOCATION} are no token ids"
    elif not 0 < len(tokens) <= MOST_INVOCATION:
        yield f"its {INVOCATION} are {len(tokens)}, and may be 1 to {MOST_INVOCATION}"
    elif base.n_vocab and max(tokens) >= base.n_vocab:
        yield f"its {INVOCATION} have {max(tokens)}, and the base knows {base.n_vocab} tokens"


def _metadata_problems(adapter: GGUFFile, base: AdapterBase) -> Iterator[str]:
    wanted = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": base.architecture,
    }
    for key, value in wanted.items():
        found = adapter.get(key)
        if adapter.value_types.get(key) != STRING or found != value:
            yield f"its {key} is {shown(found)}, and must be {value!r}"
    alpha = adapter.get("adapter.lora.alpha", 0.0)
    if adapter.value_types.get("adapter.lora.alpha", _FLOAT32) != _FLOAT32:
        yield "its adapter.lora.alpha is no 32-bit float"
    elif not math.isfinite(alpha):
        yield f"its adapter.lora.alpha is {alpha}"
    if INVOCATION in adapter.metadata:
        yield from _invocation_problems(adapter, base)


def _tensor_problems(adapter: GGUFFile, base: AdapterBase, left_out: list[str]) -> Iterator[str]:
    pairs: dict[str, dict[str, GGUFTensor]] = {}
    for name, tensor in adapter.tensors.items():
        target, _, factor = name.rpartition(".lora_")
        if factor in ("a", "b"):
            pairs.setdefault(target, {})[factor] = tensor
        elif name not in left_out:
            yield f"{name} is no factor of an adapter"
    if not pairs:
        yield "it has no low-rank factors"
    for target, pair in pairs.items():
        if len(pair) < 2:
            yield f"of {target} one factor of two is missing"
            continue
        problem = _pair_problem(target, pair["a"], pair["b"], base)
        if problem:
            yield problem
            continue
        for factor, tensor in pair.items():
            if not _is_finite(tensor):
                yield f"{target}.lora_{factor} holds values that are no finite numbers"


def _pair_problem(target: str, a: GGUFTensor, b: GGUFTensor, base: AdapterBase) -> str:
    for tensor in (a, b):
        if tensor.type_name not in FACTOR_TYPES:
            known = ", ".join(FACTOR_TYPES)
            return f"a factor of {target} is {tensor.type_name}, none of {known}"
    shape = base.shapes.get(target)
    if shape is None:
        return f"the base has no tensor {target}" if base.whole else ""
    if _ignores_adapters(target, base):
        return f"llama.cpp can't put an adapter on {target}"
    *experts, rows, columns = (1, *shape)[-max(2, len(shape)) :]
    wanted = [rows, columns]
    if target == _EMBEDDING:
        # Rows of lora_a are looked up by token.
        found, ranks = [a.shape[-2:][0], b.shape[-2:][0]], (a.shape[-1], b.shape[-1])
    else:
        found, ranks = [b.shape[-2:][0], a.shape[-1]], (a.shape[-2:][0], b.shape[-1])
    others = [list(tensor.shape[:-2]) for tensor in (a, b)]
    same_experts = all(len(shape) > 1 and other == experts for other in others)
    if found != wanted or ranks[0] != ranks[1] or not same_experts or min(a.shape) < 1:
        return (
            f"the factors of {target} have the shapes {list(a.shape)} and {list(b.shape)}, and "
            f"the base's tensor has {list(shape)}"
        )
    return ""


def _ignores_adapters(target: str, base: AdapterBase) -> bool:
    """Does llama.cpp compute with this tensor without asking for adapters, or end its process?
    Of a tied embedding it takes the factors for those of the output."""
    if target == _EMBEDDING and base.whole and _OUTPUT not in base.shapes:
        return True
    inner = target.split(".", 2)[-1] if target.startswith("blk.") else target
    known = next((one for one in ARCHITECTURES if one.gguf_name == base.architecture), None)
    return known is not None and not known.no_adapter.isdisjoint({inner, target})


def _is_finite(tensor: GGUFTensor) -> bool:
    data = np.ascontiguousarray(tensor.data).reshape(-1)
    if tensor.type_name in ("F32", "F16"):
        kind = np.float32 if tensor.type_name == "F32" else np.float16
        return bool(np.isfinite(data.view(kind)).all())
    if tensor.type_name == "BF16":
        return bool((data.view(np.uint16) & 0x7F80 != 0x7F80).all())
    # Q8_0: a float16 scale and 32 values in each block of 34 bytes.
    scales = np.ascontiguousarray(data.reshape(-1, 34)[:, :2]).view(np.float16)
    return bool(np.isfinite(scales).all())
