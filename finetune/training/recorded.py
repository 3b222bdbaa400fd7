"""How likely the trained model finds some answers, recorded so that a conversion can be held to it:
the merged weights must find them as likely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneserve.files import write_json
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded, to_dataset
from tuneserve.finetune.training.losses import held_out_loss
from tuneserve.records import Record

EXAMPLES = 4
LONGEST = 256
FILE = "recorded_losses.json"


class RecordedAnswer(Record):
    """An example's token ids, the places in it whose tokens the loss counts, and the mean loss of
    these tokens in nats."""

    ids: list[int]
    scored: list[int]
    loss: float


class RecordedLosses(Record):
    """What training recorded: the precision it computed in, and the examples."""

    precision: str
    examples: list[RecordedAnswer]


def record_losses(
    trainer: Any, encoded: dict[str, list[Encoded]], precision: str
) -> RecordedLosses:
    """The trained model's losses on the shortest examples of the eval split, or without one of the
    train split. All processes have to take part."""
    examples = encoded.get("eval") or encoded["train"]
    usable = [item for item in examples if item.trained and len(item.input_ids) <= LONGEST]
    chosen = sorted(usable, key=lambda item: len(item.input_ids))[:EXAMPLES]
    return RecordedLosses(
        precision=precision,
        examples=[
            RecordedAnswer(
                ids=item.input_ids,
                # The first token is predicted from nothing.
                scored=[n for n, label in enumerate(item.labels) if n and label != IGNORED],
                loss=held_out_loss(trainer, to_dataset([item]), "recorded").loss,
            )
            for item in chosen
        ],
    )


def write_losses(losses: RecordedLosses, folder: Path) -> None:
    write_json(folder / FILE, losses.to_json())
