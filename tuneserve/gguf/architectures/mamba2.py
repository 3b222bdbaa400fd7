"""Mamba-2 (Dao and Gu 2024): the tensors of a layer with a state space, and their metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tuneserve.gguf.architectures.table import Config, Entries
from tuneserve.gguf.architectures.values import MINUS_EXPONENTIAL

FOLDER = "mamba"
TENSORS: Mapping[str, str] = {
    "ssm_in": f"{FOLDER}.in_proj",
    "ssm_conv1d": f"{FOLDER}.conv1d",
    "ssm_norm": f"{FOLDER}.norm",
    "ssm_out": f"{FOLDER}.out_proj",
}
# These end in no '.weight'.
PARAMETERS: Mapping[str, str] = {
    "ssm_a": f"{FOLDER}.A_log",
    "ssm_d": f"{FOLDER}.D",
    "ssm_dt.bias": f"{FOLDER}.dt_bias",
}
VALUES = {"ssm_a": MINUS_EXPONENTIAL}


def one_each(config: Config, size: int) -> int:
    return size


def groups(config: Config, size: int) -> int:
    return int(config.get("mamba_n_groups") or 1)


ROW_COUNTS: Mapping[str, Callable[[Config, int], int]] = {
    "ssm_a": one_each,
    "ssm_d": one_each,
    "ssm_norm": groups,
}


def to_metadata(config: Config, inner: int) -> Entries:
    """`inner`: the width of all heads together."""
    keys: dict[str, Any] = {
        "ssm.conv_kernel": config["mamba_d_conv"],
        "ssm.state_size": config["mamba_d_state"],
        "ssm.group_count": groups(config, 0),
        "ssm.inner_size": inner,
        "ssm.time_step_rank": config["mamba_n_heads"],
    }
    return [(key, "uint32", value) for key, value in keys.items()]
