"""The text models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: Qwen2's and Qwen3's, whose RoPE has three
positions. For text these are one and the same, and RoPE is the usual one."""

from __future__ import annotations

from dataclasses import replace

from tuneserve.gguf.architectures import common, qwen
from tuneserve.gguf.architectures.table import Config, Entries, no_import

QWEN2_SECTIONS = (16, 24, 24)
QWEN3_SECTIONS = (24, 20, 20)


def qwen2_metadata(config: Config) -> Entries:
    return [*qwen.qwen2_metadata(config), *common.position_sections(config, QWEN2_SECTIONS)]


def qwen3_metadata(config: Config) -> Entries:
    return [
        *qwen.qwen3_metadata(config),
        *common.position_sections(config, QWEN3_SECTIONS),
        ("n_deepstack_layers", "uint32", config.get("deepstack_layers") or 0),
    ]


QWEN2_VL = replace(
    qwen.QWEN2,
    gguf_name="qwen2vl",
    hf_names=("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
    to_config=no_import,
    to_metadata=qwen2_metadata,
)
QWEN3_VL = replace(
    qwen.QWEN3,
    gguf_name="qwen3vl",
    hf_names=("Qwen3VLForConditionalGeneration",),
    to_config=no_import,
    to_metadata=qwen3_metadata,
)
ARCHITECTURES = (QWEN2_VL, QWEN3_VL)
