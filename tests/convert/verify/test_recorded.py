"""The merged weights have to give the losses that training recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.convert.convert_support import Trained
from tuneserve.arrays import Floats
from tuneserve.convert.stage import convert
from tuneserve.convert.verify.recorded import check_recorded, loss_of, read_recorded
from tuneserve.convert.verify.reference import reference_logits
from tuneserve.finetune.training.recorded import (
    FILE,
    RecordedAnswer,
    RecordedLosses,
    write_losses,
)
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

SEQUENCES = [[1, 500, 42, 7, 300, 2], [5, 6, 7, 8, 9, 10, 11, 12, 2]]


def recorded(logits: list[Floats], precision: str) -> RecordedLosses:
    examples = [RecordedAnswer(ids=ids, scored=[3, 4, 5], loss=0.0) for ids in SEQUENCES]
    return RecordedLosses(
        precision=precision,
        examples=[
            item.model_copy(update={"loss": loss_of(item, rows)})
            for item, rows in zip(examples, logits, strict=True)
        ],
    )


def test_other_weights_are_noticed(trained: Trained) -> None:
    positions = [np.arange(len(ids)) for ids in SEQUENCES]
    base, adapted, merged = reference_logits(
        trained.model(), trained.adapter, SEQUENCES, positions, threads=1
    )
    assert check_recorded(recorded(adapted, "fp32"), merged).passed
    assert not check_recorded(recorded(adapted, "fp32"), base).passed


def test_another_base_need_only_be_near() -> None:
    logits = [np.zeros((len(ids), 600), np.float32) for ids in SEQUENCES]
    known = recorded(logits, "bf16")
    for more, passed in ((0.3, True), (1.0, False)):
        shifted = [item.model_copy(update={"loss": item.loss - more}) for item in known.examples]
        moved = known.model_copy(update={"examples": shifted})
        check = check_recorded(moved, logits, other_base=True)
        assert check.passed is passed
        assert ("merge_base is another model" in check.detail) is not passed
        assert not check_recorded(moved, logits).passed


def test_limits_are_those_of_the_precision() -> None:
    logits = [np.zeros((len(ids), 600), np.float32) for ids in SEQUENCES]
    for precision, passed in (("fp32", False), ("bf16", True)):
        known = recorded(logits, precision)
        shifted = [item.model_copy(update={"loss": item.loss + 0.01}) for item in known.examples]
        check = check_recorded(known.model_copy(update={"examples": shifted}), logits)
        assert check.passed == passed
        assert check.figures["apart"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("precision", "better", "passed"),
    [("bf16", 0.3, True), ("bf16", -0.3, False), ("fp32", 0.3, False)],
)
def test_sums_in_16_bits_may_have_hidden_a_gain(
    precision: str, better: float, passed: bool
) -> None:
    logits = [np.zeros((len(ids), 600), np.float32) for ids in SEQUENCES]
    known = recorded(logits, precision)
    shifted = [item.model_copy(update={"loss": item.loss + better}) for item in known.examples]
    check = check_recorded(known.model_copy(update={"examples": shifted}), logits)
    assert check.passed is passed
    assert ("better than training saw it" in check.detail) is passed


def test_the_shortest_examples_are_read(tmp_path: Path) -> None:
    assert read_recorded(tmp_path, longest=10, most=2) is None
    examples = [RecordedAnswer(ids=[1] * n, scored=[1], loss=1.0) for n in (9, 3, 5, 40)]
    write_losses(RecordedLosses(precision="fp32", examples=examples), tmp_path)

    def lengths(longest: int, most: int) -> list[int]:
        found = read_recorded(tmp_path, longest=longest, most=most)
        assert found is not None
        return [len(item.ids) for item in found.examples]

    assert lengths(10, 2) == [3, 5]
    assert lengths(10, 9) == [3, 5, 9]
    assert lengths(2, 9) == [3]


def test_a_run_without_recorded_losses_is_told_so(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    for empty in (None, RecordedLosses(precision="fp32", examples=[])):
        if empty is not None:
            write_losses(empty, run.data)
        convert(run, ConvertSettings(quantization="Q8_0"), force=True)
        told = f"note: no loss was recorded in {run.data / FILE} to compare with"
        assert capsys.readouterr().err.count(told) == 1
