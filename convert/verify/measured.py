"""What a verification computes of the trainer's models, and measures of a file against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.chat.prompt import EncodedExample
from tuneserve.convert.result import Check, GainKept, TensorUpdate
from tuneserve.convert.slabs import one_blas_thread
from tuneserve.convert.verify.gain import (
    AnswerScores,
    compare_base_file,
    file_scores,
    measure_gain,
)


@dataclass(frozen=True)
class Reference:
    """What the trainer's models (base, adapter on base, merged weights) make of held-out examples:
    the logits of `sequences`, prompts with answers of `chosen`, and how likely they find answers.
    The same for every file that is made of these weights."""

    chosen: list[EncodedExample]
    sequences: list[list[int]]
    base: list[Floats]
    adapted: list[Floats]
    merged: list[Floats]
    answers: AnswerScores
    as_trained: list[Check] = field(default_factory=list)
    """Is the recorded loss found again, and training's gain kept by another base? Empty if training
    recorded none."""


@dataclass
class Measured:
    """What a verification has measured: the reference, which another one of the same weights takes
    over, and what the file keeps of the tune."""

    reference: Reference | None = None
    gain: GainKept | None = None
    updates: list[TensorUpdate] = field(default_factory=list)

    def score(
        self,
        path: Path,
        found: Sequence[Floats] = (),
        *,
        base: Path,
        limit: float,
        threads: int,
        lora: Path | None = None,
    ) -> GainKept:
        """Measure what a file, or with `lora` a base with its adapter, keeps of the gain. `found`:
        its logits of the reference's sequences, if they are at hand. Where that is less than
        `limit`, what `base`, the base's own file of these types, lacks is measured too."""
        assert self.reference is not None
        reference = self.reference
        at_hand = dict(zip(map(tuple, reference.sequences), found, strict=False))
        with one_blas_thread():
            scores = file_scores(
                path, reference.answers.examples, threads=threads, lora=lora, at_hand=at_hand
            )
            self.gain = measure_gain(reference.answers, scores, self.updates)
            if self.gain.share is not None and self.gain.share < limit:
                examples = reference.answers.examples
                plain = file_scores(base, examples, threads=threads, at_hand={})
                self.gain = compare_base_file(self.gain, reference.answers, scores, plain)
        return self.gain
