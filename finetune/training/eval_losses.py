"""The loss on each example of the eval split, so that two runs can be compared by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneserve.chat.examples import Example
from tuneserve.files import read_json, sha256_text
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded, to_dataset
from tuneserve.finetune.training.losses import held_out_loss
from tuneserve.records import Record, parse
from tuneserve.run import RunDirectory

FILE = "eval_losses.json"


class ExampleLoss(Record):
    """One sequence of the eval split. `source`: the document it is from or, without one, its place
    in its file: what has the same is not independent. `sha256`: of its token ids and labels.
    `loss`: mean over its trained `tokens`, in nats."""

    source: str
    sha256: str
    tokens: int
    loss: float


class EvalLosses(Record):
    """runs/NAME/data/eval_losses.json: the losses of the adapter of a step."""

    step: int
    examples: list[ExampleLoss]


def measure_eval_losses(
    trainer: Any, encoded: Sequence[Encoded], examples: Sequence[Example], step: int
) -> EvalLosses:
    """The losses of the model in the trainer on the eval split, of which `encoded` are the
    sequences. All processes have to take part."""
    sources = {example.where: example.source for example in examples}
    losses = []
    for sequence in encoded:
        # The first token is predicted from nothing.
        tokens = sum(label != IGNORED for label in sequence.labels[1:])
        if not tokens:
            continue
        found = held_out_loss(trainer, to_dataset([sequence]), "eval")
        losses.append(
            ExampleLoss(
                source=sources.get(sequence.where) or sequence.where,
                sha256=sha256_text(f"{sequence.input_ids} {sequence.labels}"),
                tokens=tokens,
                loss=found.loss,
            )
        )
    return EvalLosses(step=step, examples=losses)


def read_eval_losses(run: RunDirectory) -> EvalLosses | None:
    """The recorded losses of a run's adapter; None if it was trained without them."""
    path = run.data / FILE
    if not path.is_file():
        return None
    hint = f"Train again: tuneserve train --run {run.name} --record-eval-losses --force"
    return parse(EvalLosses, read_json(path, hint=hint), where=str(path), hint=hint)
