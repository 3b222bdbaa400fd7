"""The trainer's logits: base alone, base with the PEFT adapter on it, and the merged weights.

Computed by transformers and PEFT in float32 on the CPU, from the base as safetensors reads it, so
that llama.cpp has no part in any of them and our merge only in the last.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.verify.probe import transformers_config
from tuneserve.convert.verify.reference import StreamedModel, Variant
from tuneserve.convert.verify.weights import MergedWeights, TrainerWeights


@dataclass(frozen=True)
class Reference:
    """Logits [tokens, vocabulary] of each sequence, of the three models."""

    base: list[Floats]
    adapted: list[Floats]
    merged: list[Floats]


def reference_logits(
    tuned: GGUFModel, adapter: Path, sequences: Sequence[Sequence[int]], *, threads: int
) -> Reference:
    """Run the three side by side, reading each weight when it is needed."""
    _quiet()
    checkpoint = tuned.checkpoint
    trainer = TrainerWeights(checkpoint.directory, tied=checkpoint.tied)
    variants = [
        Variant(trainer), Variant(trainer, adapted=True), Variant(MergedWeights(checkpoint))
    ]  # fmt: skip
    model = StreamedModel(transformers_config(tuned), variants, adapter=adapter, threads=threads)
    base, adapted, merged = model.logits(sequences)
    model.close()
    return Reference(base, adapted, merged)


def _quiet() -> None:
    # Notes of these libraries to their own developers.
    for name in ("torch.utils._pytree", "bitsandbytes", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)
