"""What two config.json say of RoPE is compared as it is computed, in either form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuneserve.convert.merge.merge_base import check_merge_base
from tuneserve.convert.merge.rope import rope_differences
from tuneserve.errors import UsageError

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}  # fmt: skip
PLAIN = {**LLAMA, "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 1024}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 1.5, "original_max_position_embeddings": 1024}
LINEAR = {"rope_type": "linear", "factor": 2.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32,
        "original_max_position_embeddings": 1024}  # fmt: skip
GEMMA = {"model_type": "gemma3_text", "hidden_size": 256, "num_attention_heads": 4,
         "max_position_embeddings": 4096}  # fmt: skip


def new(scaling: dict[str, Any], theta: float = 10000.0) -> dict[str, Any]:
    """As transformers writes it since version 5."""
    return {**LLAMA, "rope_parameters": {"rope_theta": theta, **scaling}}


def old(scaling: dict[str, Any], theta: float = 10000.0) -> dict[str, Any]:
    return {**LLAMA, "rope_theta": theta, "rope_scaling": scaling}


@pytest.mark.parametrize("scaling", [LLAMA3, YARN, LINEAR, LONG])
def test_scaling_that_training_had_not_is_found(scaling: dict[str, Any]) -> None:
    kind = scaling["rope_type"]
    for plain in (PLAIN, new({"rope_type": "default"}), {**PLAIN, "rope_scaling": None}):
        for scaled in (new(scaling), old(scaling), old({**scaling, "type": kind})):
            assert rope_differences(plain, scaled) == [
                f"rope_type: {kind!r}, in training 'default'"
            ]
            assert rope_differences(scaled, plain) == [
                f"rope_type: 'default', in training {kind!r}"
            ]
    # transformers goes by rope_scaling where both are there.
    both = {**new({"rope_type": "default"}), "rope_scaling": scaling}
    assert rope_differences(PLAIN, both)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PLAIN, new({"rope_type": "default"})),
        (PLAIN, old({"rope_type": "default"})),
        (PLAIN, old({"type": "mrope", "mrope_section": [8, 12, 12]})),
        (PLAIN, new({"rope_type": "linear", "factor": 1.0})),
        (PLAIN, new({"rope_type": "default", "partial_rotary_factor": 1.0})),
        *[(new(scaling), old(scaling)) for scaling in (LLAMA3, YARN, LINEAR, LONG)],
        (new(LINEAR), old({"type": "linear", "factor": 2, "finetuned": True})),
        # Left out, and as it is then.
        (new(YARN), old({**YARN, "beta_fast": 32, "beta_slow": 1.0, "truncate": True})),
        (new(YARN), new({**YARN, "attention_factor": 1.0405465108108165})),
        (new({**YARN, "original_max_position_embeddings": 4096}),
         new({"rope_type": "yarn", "factor": 1.5})),
        (new(LONG), old({**LONG, "rope_type": None, "type": "su"})),
        (new(LONG), {**old({key: of for key, of in LONG.items() if "max" not in key}),
                     "original_max_position_embeddings": 1024}),
        (new(LONG), new({**LONG, "factor": 4.0})),
        # Parameters of the same factors, as an imported GGUF may have them.
        (new(LLAMA3), new({**LLAMA3, "low_freq_factor": 2.0, "high_freq_factor": 8.0,
                           "original_max_position_embeddings": 2048})),
        (
            {**GEMMA, "rope_theta": 1e6, "rope_local_base_freq": 10000.0, "rope_scaling": LINEAR},
            {**GEMMA, "rope_parameters": {
                "full_attention": {"rope_theta": 1e6, **LINEAR},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            }},
        ),
    ],
)  # fmt: skip
def test_the_same_in_other_words_is_no_difference(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert rope_differences(one, other) == []
    assert rope_differences(other, one) == []


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (PLAIN, new({}, theta=20000.0), "rope_theta: 20000.0, in training 10000.0"),
        (new(LINEAR), old({**LINEAR, "factor": 2.02}), "factor: 2.02, in training 2.0"),
        (new(YARN), new({**YARN, "beta_fast": 16}), "beta_fast: 16, in training 32.0"),
        (new(LLAMA3), old({**LLAMA3, "original_max_position_embeddings": 2048}),
         "original_max_position_embeddings: 2048, in training 1024"),
        (new(LONG), new({**LONG, "attention_factor": 1.0}),
         "attention_factor: 1.0, in training 1.09"),
        (new(LONG), new({**LONG, "long_factor": [2.0] * 31 + [3.0]}),
         "long_factor: 32 numbers, in training 32 numbers"),
        (PLAIN, {**PLAIN, "partial_rotary_factor": 0.5},
         "partial_rotary_factor: 0.5, in training 1.0"),
        (new({"rope_type": "dynamic", "factor": 2.0}), new({"rope_type": "dynamic", "factor": 4.0}),
         "factor: 4.0, in training 2.0"),
        (
            {**GEMMA, "rope_theta": 1e6, "rope_local_base_freq": 10000.0},
            {**GEMMA, "rope_parameters": {
                "full_attention": {"rope_theta": 1e6},
                "sliding_attention": {"rope_theta": 20000.0},
            }},
            "sliding_attention: rope_theta: 20000.0, in training 10000.0",
        ),
    ],
)  # fmt: skip
def test_another_value_is_named(one: dict[str, Any], other: dict[str, Any], told: str) -> None:
    (found,) = rope_differences(one, other)
    assert found.startswith(told)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"hidden_act": "swish"}, True),
        ({"hidden_act": "gelu"}, False),
        ({"max_window_layers": 28}, True),
        ({"max_window_layers": 28, "use_sliding_window": True}, False),
    ],
)
def test_what_copies_write_otherwise_is_the_same_computation(
    changed: dict[str, Any], same: bool, tmp_path: Path
) -> None:
    ours = {**PLAIN, "hidden_act": "silu", "use_sliding_window": False, "max_window_layers": 1}
    folders = [tmp_path / "ours", tmp_path / "theirs"]
    for folder, config in zip(folders, (ours, {**ours, **changed}), strict=True):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    if same:
        check_merge_base(*folders)
        return
    with pytest.raises(UsageError, match="another computation"):
        check_merge_base(*folders)
