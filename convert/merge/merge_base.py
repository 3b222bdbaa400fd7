"""Another base to merge the adapter into than the one it was trained on: of the same model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneserve.console import say
from tuneserve.convert.merge.rope import ROPE_KEYS, rope_differences, same_value
from tuneserve.errors import UsageError
from tuneserve.files import read_json, sha256_file
from tuneserve.text_model import plain_config, text_config

CONFIG = "config.json"
_ACTIVATIONS = {"swish": "silu"}
"""Other names of one function."""
_UNREADABLE = (TypeError, ValueError, KeyError, ArithmeticError, AttributeError)
"""What numbers raise that are none."""
_HARMLESS = frozenset({
    "_attn_implementation", "_name_or_path", "architectures", "attention_dropout", "auto_map",
    "bos_token_id", "dtype", "eos_token_id", "initializer_range", "max_position_embeddings",
    "model_type", "pad_token_id", "pretraining_tp", "quantization_config", "torch_dtype",
    "transformers_version", "use_cache", "vocab_size",
})  # fmt: skip
"""What copies of one model differ in: where they come from, how they are stored, how they are
trained, how many tokens they have room for."""


def check_merge_base(trained: Path, other: Path) -> None:
    """Raise UsageError if the checkpoint `other` is another model than `trained`, the base that was
    trained on, by what both config.json say of the computation. Where that of the training is gone,
    the losses that training recorded must do."""
    paths = [folder / CONFIG for folder in (trained, other)]
    if not all(path.is_file() for path in paths):
        return
    ours, theirs = (plain_config(text_config(read_json(path))) for path in paths)
    if ours.get("model_type") != theirs.get("model_type"):
        raise UsageError(
            f"a model of type {theirs.get('model_type')!r}; the adapter belongs to one of type "
            f"{ours.get('model_type')!r} ({trained})",
            where=f"merge_base = {other}",
            hint="Name the 16-bit checkpoint of the model that was trained on.",
        )
    try:
        problems = [*_differences(ours, theirs), *rope_differences(ours, theirs)]
    except _UNREADABLE as error:
        raise UsageError(
            f"RoPE's settings, here or in {paths[0]}, can't be read: {error!r}",
            where=f"merge_base = {paths[1]}",
        ) from error
    if problems:
        raise UsageError(
            f"its {CONFIG} describes another computation than that of the base that was trained on",
            where=f"merge_base = {other}",
            problems=problems,
            hint=f"Name the 16-bit checkpoint of the model that was trained on ({trained}).",
        )


def tell_other_config(other: Path, trained: Path, recorded: Mapping[str, str]) -> None:
    """Say so where nothing can compare the config.json of `other`: it is not the one of the
    training (`recorded`: SHA-256 of its base's files), and that is gone or was changed."""
    known = recorded.get(CONFIG)
    files = [folder / CONFIG for folder in (other, trained)]
    if known and all(not path.is_file() or sha256_file(path) != known for path in files):
        say(
            f"note: merge_base = {other}: its {CONFIG} is not the one that was trained with, which "
            "is not there any more to compare: only the losses that training recorded tell "
            "whether it is the same model"
        )


def _computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the computation depends on, but for RoPE."""
    kept = {key: of for key, of in config.items() if key not in _HARMLESS | ROPE_KEYS}
    if not config.get("use_sliding_window", True):
        kept.pop("max_window_layers", None)
    return {
        key: _ACTIVATIONS.get(str(of), of)
        for key, of in kept.items()
        if "unsloth" not in key and of is not None
    }


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Of what both say; a key that one leaves out has its default there."""
    mine, others = _computed(ours), _computed(theirs)
    return [
        f"{key}: {others[key]!r}, in training {mine[key]!r}"
        for key in mine
        if key in others and not same_value(mine[key], others[key])
    ]
