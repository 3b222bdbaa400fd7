"""Contract: the merged weights find answers as likely as the trained model did when training ended.

The other checks compare with the base and the adapter as they are on disk now; this one knows what
was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.result import Check
from tuneserve.divergence import token_nll
from tuneserve.files import read_json
from tuneserve.finetune.training.recorded import FILE, RecordedAnswer, RecordedLosses
from tuneserve.records import parse

CONTRACT = "loss as trained"
LIMITS = {"fp32": 2e-3}
ROUNDED_LIMIT = 0.05
"""Nats per answer token between the recorded loss and that of the merged weights in float32, for a
training in float32 and for one that rounded its activations to 16 bits: the mean over the examples,
beside a twentieth of the loss itself."""


def read_recorded(folder: Path, *, longest: int, most: int) -> RecordedLosses | None:
    """What training recorded beside the splits in `folder`: up to `most` examples of at most
    `longest` tokens, at least one. None for a run that recorded nothing."""
    path = folder / FILE
    if not path.is_file():
        return None
    recorded = parse(RecordedLosses, read_json(path), where=str(path), hint="Train again.")
    if not recorded.examples:
        return None
    ordered = sorted(recorded.examples, key=lambda item: len(item.ids))
    fitting = [item for item in ordered if len(item.ids) <= longest]
    return recorded.model_copy(update={"examples": fitting[:most] or ordered[:1]})


def check_recorded(recorded: RecordedLosses, logits: Sequence[Floats]) -> Check:
    """`logits`: of the merged weights, [tokens, vocabulary] for each example."""
    found = [loss_of(item, rows) for item, rows in zip(recorded.examples, logits, strict=True)]
    trained = [item.loss for item in recorded.examples]
    off = float(np.mean(np.abs(np.subtract(found, trained))))
    limit = LIMITS.get(recorded.precision, ROUNDED_LIMIT) + 0.05 * float(np.mean(trained)) * (
        recorded.precision not in LIMITS
    )
    detail = (
        f"{np.mean(found):.4f} nats per answer token, {np.mean(trained):.4f} when training ended "
        f"({len(trained)} examples, apart by {off:.1e}, at most {limit:.1e})"
    )
    return Check(
        CONTRACT, off <= limit, detail,
        {"loss": float(np.mean(found)), "recorded": float(np.mean(trained)), "apart": off},
    )  # fmt: skip


def loss_of(item: RecordedAnswer, logits: Floats) -> float:
    """Mean negative log-likelihood (nats) of the tokens that training scored."""
    return float(np.mean([token_nll(logits[n - 1], item.ids[n]) for n in item.scored]))
