"""Groups of tensors hold each matrix once, by role and neighbouring blocks."""

from __future__ import annotations

from itertools import chain

import pytest

from tuneserve.convert.gguf.quantization import fitting_type
from tuneserve.convert.mixture.groups import group_tensors, types_of

SHAPES = {
    "token_embd.weight": (100, 64),
    "output_norm.weight": (64,),
    **{f"blk.{n}.{role}.weight": (64, 64) for n in range(6) for role in ("attn_q", "ffn_up")},
    **{f"blk.{n}.attn_norm.weight": (64,) for n in range(6)},
}


@pytest.mark.parametrize(("most", "count"), [(1, 3), (5, 5), (7, 7), (1000, 13)])
def test_every_matrix_is_in_one_group(most: int, count: int) -> None:
    groups = group_tensors(SHAPES, most)
    assert len(groups) == count
    assert sorted(chain(*groups)) == sorted(name for name in SHAPES if "norm" not in name)
    assert ["token_embd.weight"] in groups
    for group in groups[1:]:
        blocks = [int(name.split(".")[1]) for name in group]
        assert blocks == list(range(blocks[0], blocks[0] + len(group)))
        assert len({name.split(".")[2] for name in group}) == 1


@pytest.mark.parametrize("columns", [256, 576, 100])
def test_a_tensors_types_fit_its_rows(columns: int) -> None:
    types = types_of((8, columns))
    assert types == tuple(dict.fromkeys(fitting_type(kind, columns) for kind in types))
