"""Adapters that don't fit a base, found before llama.cpp reads them: some would end its process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tuneserve.errors import UsageError
from tuneserve.gguf.lora import AdapterBase, check_adapter, invocation_tokens
from tuneserve.gguf.reader import GGUFFile

BASE = AdapterBase(
    "llama",
    {
        "token_embd.weight": (100, 64),
        "output.weight": (100, 64),
        "blk.0.attn_q.weight": (48, 64),
        "blk.0.attn_q.bias": (48,),
        "blk.0.ffn_up_exps.weight": (4, 96, 64),
        "blk.0.attn_norm.weight": (64,),
    },
)
TIED = AdapterBase("llama", {"token_embd.weight": (100, 64)})
Pairs = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
GOOD: Pairs = {
    "token_embd.weight": ((100, 4), (64, 4)),
    "blk.0.attn_q.weight": ((4, 64), (48, 4)),
    "blk.0.ffn_up_exps.weight": ((4, 2, 64), (4, 96, 2)),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., GGUFFile]:
    def make(
        pairs: Pairs,
        *,
        architecture: str = "llama",
        change: Callable[[gguf.GGUFWriter], None] = lambda _: None,
        kind: Any = np.float16,
        value: float = 0.5,
        alpha: Any = 8.0,
    ) -> GGUFFile:
        path = tmp_path / "adapter.gguf"
        writer = gguf.GGUFWriter(str(path), architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        if isinstance(alpha, float):
            writer.add_float32("adapter.lora.alpha", alpha)
        else:
            writer.add_uint32("adapter.lora.alpha", alpha)
        change(writer)
        for name, (a, b) in pairs.items():
            writer.add_tensor(f"{name}.lora_a", np.full(a, value, kind))
            writer.add_tensor(f"{name}.lora_b", np.full(b, value, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return GGUFFile(path)

    return make


def norm(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, np.float32))


def test_an_adapter_that_fits_passes_and_norms_are_told(write: Callable[..., GGUFFile]) -> None:
    assert check_adapter(write(GOOD), BASE, where="x") == []
    assert check_adapter(write(GOOD, kind=np.float32, change=norm), BASE, where="x") == [
        "blk.0.attn_norm.weight"
    ]


@pytest.mark.parametrize(
    ("pairs", "options", "problem"),
    [
        (GOOD, {"architecture": "qwen2"}, "its general.architecture is 'qwen2'"),
        (GOOD, {"alpha": 16}, "its adapter.lora.alpha is no 32-bit float"),
        (GOOD, {"alpha": float("nan")}, "its adapter.lora.alpha is nan"),
        (GOOD, {"value": float("inf")}, "no finite numbers"),
        (GOOD, {"kind": np.int32}, "is I32, none of F32"),
        ({}, {}, "no low-rank factors"),
        ({"blk.0.attn_q.weight": ((4, 64), (48, 2))}, {}, "have the shapes [4, 64] and [48, 2]"),
        ({"blk.0.attn_q.weight": ((4, 32), (48, 4))}, {}, "the base's tensor has [48, 64]"),
        ({"blk.0.attn_q.bias": ((4, 48), (1, 4))}, {}, "have the shapes"),
        ({"blk.0.ffn_up_exps.weight": ((3, 2, 64), (3, 96, 2))}, {}, "have the shapes"),
        ({"blk.0.ffn_up_exps.weight": ((2, 64), (96, 2))}, {}, "have the shapes"),
        ({"token_embd.weight": ((4, 64), (100, 4))}, {}, "have the shapes"),
        ({"blk.1.attn_q.weight": ((4, 64), (48, 4))}, {}, "the base has no tensor blk.1"),
    ],
)
def test_what_does_not_fit_is_named(
    write: Callable[..., GGUFFile], pairs: Pairs, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError) as refused:
        check_adapter(write(pairs, **options), BASE, where="the file")
    assert problem in str(refused.value)
    assert refused.value.where == "the file"


INVOCATION = "adapter.alora.invocation_tokens"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([3, 99], ""),
        ([3, 100], "have 100, and the base knows 100 tokens"),
        ([1] * 257, "are 257, and may be 1 to 256"),
        ([-1], "are no token ids"),
        (["a"], "are no token ids"),
        ("a", "are no token ids"),
    ],
)
def test_an_invocation_sequence_has_tokens_of_the_base(
    write: Callable[..., GGUFFile], value: Any, problem: str
) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        if isinstance(value, list):
            writer.add_array(INVOCATION, value)
        else:
            writer.add_string(INVOCATION, value)

    adapter = write(GOOD, change=add)
    base = replace(BASE, n_vocab=100)
    if problem:
        with pytest.raises(UsageError) as refused:
            check_adapter(adapter, base, where="x")
        assert problem in str(refused.value)
    else:
        assert check_adapter(adapter, base, where="x") == []
        assert invocation_tokens(adapter) == (3, 99)


def test_factors_of_a_tied_embedding_are_refused(write: Callable[..., GGUFFile]) -> None:
    with pytest.raises(UsageError, match="can't put an adapter on token_embd"):
        check_adapter(write({"token_embd.weight": GOOD["token_embd.weight"]}), TIED, where="x")


def test_of_a_base_in_several_files_only_what_is_known_is_compared(
    write: Callable[..., GGUFFile],
) -> None:
    part = AdapterBase("llama", {"blk.0.attn_q.weight": (48, 64)}, whole=False)
    assert check_adapter(write({"blk.9.x.weight": ((4, 8), (8, 4))}), part, where="x") == []


def test_one_factor_alone_and_other_tensors_are_refused(write: Callable[..., GGUFFile]) -> None:
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), np.float16))
        writer.add_tensor("blk.0.attn_q.bias", np.ones(48, np.float32))

    with pytest.raises(UsageError) as refused:
        check_adapter(write({}, change=more), BASE, where="x")
    assert "of blk.0.attn_q.weight one factor of two is missing" in str(refused.value)
    assert "blk.0.attn_q.bias is no factor" in str(refused.value)
