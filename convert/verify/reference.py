"""The trainer's logits: base, adapter on base and merged weights, computed by transformers and PEFT
side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneserve.arrays import Floats, Ids
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.checkpoint import merged_config
from tuneserve.convert.verify.streamed_model import StreamedModel, Variant
from tuneserve.convert.verify.weights import TrainerWeights, Weights
from tuneserve.text_model import plain_config


def reference_logits(
    tuned: GGUFModel,
    adapter: Path,
    sequences: Sequence[Sequence[int]],
    positions: Sequence[Ids],
    *,
    threads: int,
    base_weights: Weights | None = None,
    merged_weights: Weights | None = None,
) -> list[list[Floats]]:
    """Logits [positions, vocabulary] of each sequence, of three models side by side: the base, the
    base with its adapter, the merged weights. Each weight is read when it is needed; the base's
    and the merged ones by the objects given, if they are to see what is read."""
    trainer = base_weights or trainer_weights(tuned)
    merged = merged_weights or tuned.checkpoint
    variants = [Variant(trainer), Variant(trainer, adapted=True), Variant(merged)]
    config = transformers_config(tuned)
    model = StreamedModel(config, variants, adapter=adapter, threads=threads)
    return model.logits_at(sequences, positions)


def copy_logits(
    tuned: GGUFModel,
    copy: Path,
    adapter: Path,
    sequences: Sequence[Sequence[int]],
    positions: Sequence[Ids],
    *,
    threads: int,
) -> list[list[Floats]]:
    """As `reference_logits`, of two models: another copy of the base (a directory), and the adapter
    on it."""
    weights = trainer_weights(tuned, copy)
    variants = [Variant(weights), Variant(weights, adapted=True)]
    model = StreamedModel(transformers_config(tuned), variants, adapter=adapter, threads=threads)
    return model.logits_at(sequences, positions)


def trainer_weights(tuned: GGUFModel, copy: Path | None = None) -> TrainerWeights:
    """The base of this model, or a `copy` of it, as the trainer's libraries read it."""
    silence_libraries()
    checkpoint = tuned.checkpoint
    return TrainerWeights(
        copy or checkpoint.directory,
        tied=checkpoint.tied,
        vocabulary=tuned.vocabulary_size if checkpoint.resized else None,
    )


def silence_libraries() -> None:
    """Keep back what these libraries note for their own developers."""
    for name in ("torch.utils._pytree", "bitsandbytes", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)


def transformers_config(model: GGUFModel) -> Any:
    """The configuration of the merged checkpoint."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**_with_floats(plain_config(merged_config(model.checkpoint))))


def _with_floats(value: Any) -> Any:
    """Numbers that JSON has not, from how transformers writes them: {"__float__": "Infinity"}."""
    if isinstance(value, dict):
        number = value.get("__float__")
        return float(number) if number else {key: _with_floats(of) for key, of in value.items()}
    return [_with_floats(each) for each in value] if isinstance(value, list) else value
