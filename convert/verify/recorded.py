"""Contract: the merged weights find answers as likely as the trained model did when training ended.

The other checks compare with the base and the adapter as they are on disk now; this one knows what
was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.result import Check
from tuneserve.divergence import token_nll
from tuneserve.files import read_json
from tuneserve.finetune.training.recorded import FILE, RecordedAnswer, RecordedLosses
from tuneserve.records import parse

CONTRACT = "loss as trained"
# Nats per answer token between the recorded loss and that of the merged weights, which is computed
# in float32: the mean over the examples.
FLOAT32_LIMIT = 2e-3
# Logits of 16 bits are rounded by some hundredths each; the larger they are, the more. It bounds a
# worse loss: a small update added to an output of 16 bits is rounded away, so training saw less
# of a tune than the weights hold (SmolLM2 in bf16, 30 steps at 2e-5: 1.07 seen, 0.77 in float32).
ROUNDED_LIMIT, ROUNDED_SHARE = 0.05, 0.01
# Another base gives other losses than the one that was trained on.
OTHER_LIMIT, OTHER_SHARE = 0.1, 0.1


@dataclass(frozen=True)
class Origin:
    """The adapter is merged into the weights that the base it was trained on is a 4-bit `copy` of
    (its directory). `least`: the share of training's gain that the merged weights must keep."""

    copy: Path
    least: float


@dataclass(frozen=True)
class TrainedLosses:
    """The folder of the losses that training recorded. `other_base`: the adapter is merged into
    another base than it was trained on, of which the losses need only be near; `origin`: of this
    4-bit base it is the origin, and only the trained model must have the losses."""

    folder: Path
    other_base: bool = False
    origin: Origin | None = None


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


def check_recorded(
    recorded: RecordedLosses, logits: Sequence[Floats], *, other_base: bool = False
) -> Check:
    """`logits`: of the merged weights, [tokens, vocabulary] for each example."""
    found = [loss_of(item, rows) for item, rows in zip(recorded.examples, logits, strict=True)]
    trained = [item.loss for item in recorded.examples]
    differences = np.subtract(found, trained)
    off = float(np.mean(np.abs(differences)))
    counts, limit = off, FLOAT32_LIMIT
    if recorded.precision != "fp32":
        counts = float(np.mean(np.maximum(differences, 0)))
        limit = ROUNDED_LIMIT + ROUNDED_SHARE * float(np.mean(trained))
    if other_base:
        counts, limit = off, OTHER_LIMIT + OTHER_SHARE * float(np.mean(trained))
    counted = f"{len(trained)} example" + "s" * (len(trained) > 1)
    detail = (
        f"{np.mean(found):.4f} nats per answer token, {np.mean(trained):.4f} when training ended "
        f"({counted}, apart by {off:.1e}, at most {limit:.1e})"
    )
    if other_base and off > limit:
        detail += (
            "; merge_base is another model than the one that was trained on, or the tune is fitted "
            "to the rounding of that one"
        )
    elif counts <= limit < off:
        detail += (
            f"; better than training saw it: sums in {recorded.precision} round small updates away"
        )
    return Check(
        CONTRACT, counts <= limit, detail,
        {"loss": float(np.mean(found)), "recorded": float(np.mean(trained)), "apart": off},
    )  # fmt: skip


def loss_of(item: RecordedAnswer, logits: Floats) -> float:
    """Mean negative log-likelihood (nats) of the tokens that training scored."""
    return float(np.mean([token_nll(logits[n - 1], item.ids[n]) for n in item.scored]))
