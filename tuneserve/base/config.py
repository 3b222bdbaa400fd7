"""config.json of a GGUF: every entry that changes what the model computes is taken over, or the
import is refused and says which."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tuneserve.base.rope import rope_scaling
from tuneserve.base.tokenizer import special_ids
from tuneserve.base.weights import checkpoint_dtype
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures.table import Architecture
from tuneserve.gguf.reader import ArchitectureMetadata, GGUFFile

TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Entries that say what other entries or the tensors say too, or nothing about the computation.
_HARMLESS = frozenset(
    {
        "vocab_size", "embedding_length_out", "rope.scaling.finetuned", "rope.dimension_count",
        "tensor_data_layout", "attention.key_length", "attention.value_length", "block_count",
    }
)  # fmt: skip
# Values with which an entry has no effect.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scale_linear": (1.0,),
    "rope.scaling.factor": (1.0,),
    "rope.scaling.type": ("none",),
}
_POSITIVE = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
)  # fmt: skip
# llama.cpp reads no window for these; files of Mistral name one.
_WITHOUT_WINDOW = frozenset({"llama", "qwen2", "qwen3"})


def checkpoint_config(gguf: GGUFFile, architecture: Architecture) -> dict[str, Any]:
    """config.json; a GGUF without an output matrix shares the embedding's.

    Raises UsageError for entries that have no counterpart in it.
    """
    metadata = ArchitectureMetadata(gguf)
    try:
        config = architecture.config(metadata)
    except (TypeError, ValueError, ArithmeticError) as error:
        # A list where there should be one number (other sizes by layer), a text, no heads.
        raise UsageError(
            f"the sizes in this GGUF can't be imported ({error})", where=str(gguf.path)
        ) from error
    for name in _POSITIVE:
        if not 0 < config.get(name, 1) < math.inf:
            raise UsageError(
                f"the sizes in this GGUF can't be imported ({name} is {config[name]})",
                where=str(gguf.path),
            )
    rows = gguf.shape("token_embd.weight")[0]
    config |= {
        "vocab_size": rows,
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": TORCH_DTYPES[checkpoint_dtype(gguf)],
        **generation_config(gguf),
        **_switches(gguf, config),
    }
    if scaling := rope_scaling(gguf, metadata, config):
        config["rope_scaling"] = scaling
    _check_taken_over(gguf, metadata, config)
    _check_vocabulary(gguf, rows)
    return config


def generation_config(gguf: GGUFFile) -> dict[str, Any]:
    """Ids of BOS, EOS and padding, as far as the file names them."""
    ids = special_ids(gguf)
    return {f"{name}_id": number for name, number in ids.items() if name != "unk_token"}


def _switches(gguf: GGUFFile, config: Mapping[str, Any]) -> dict[str, bool]:
    """The switches that this kind of config.json has for tensors, as the file has them."""

    def any_of(*stems: str) -> bool:
        return any(f"blk.0.{stem}.bias" in gguf.tensors for stem in stems)

    switches: dict[str, Callable[[], bool]] = {
        "attention_bias": lambda: any_of("attn_q", "attn_k", "attn_v", "attn_output"),
        "mlp_bias": lambda: any_of("ffn_gate", "ffn_up", "ffn_down"),
        "use_qk_norm": lambda: "blk.0.attn_q_norm.weight" in gguf.tensors,
    }
    return {name: found() for name, found in switches.items() if name in config}


def _check_taken_over(
    gguf: GGUFFile, metadata: ArchitectureMetadata, config: Mapping[str, Any]
) -> None:
    head = metadata.get("attention.key_length", config.get("head_dim"))
    problems = []
    for key, value in metadata.unasked().items():
        empty = value is None or (isinstance(value, int | float) and not value)
        windowless = key == "attention.sliding_window" and gguf.architecture in _WITHOUT_WINDOW
        if empty or windowless or key in _HARMLESS or value in _NEUTRAL.get(key, ()):
            continue
        shown = value if not isinstance(value, list) else f"a list of {len(value)}"
        problems.append(f"{gguf.architecture}.{key} = {shown}")
    width = metadata.get("attention.value_length", head)
    if head is not None and width != head:
        problems.append(f"{gguf.architecture}.attention.value_length = {width}, keys have {head}")
    if problems:
        raise UsageError(
            f"a {config['architectures'][0]} checkpoint has nothing for these entries",
            where=str(gguf.path),
            problems=problems,
            hint="An import would compute something else. Train on the model's checkpoint.",
        )


def _check_vocabulary(gguf: GGUFFile, rows: int) -> None:
    """Raise UsageError if a token has no row in the embedding, or in the output."""
    counts = {"tokens": len(gguf.require("tokenizer.ggml.tokens"))}
    if "output.weight" in gguf.tensors:
        counts["rows in output.weight"] = gguf.shape("output.weight")[0]
    for what, count in counts.items():
        if count > rows or (what != "tokens" and count != rows):
            raise UsageError(
                f"this GGUF has {count} {what}, but {rows} rows in token_embd.weight",
                where=str(gguf.path),
                hint="Download or make it again.",
            )
