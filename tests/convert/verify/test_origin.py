"""Merged into the origin of its 4-bit base, a tune has to keep the share of its gain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import KINDS_OF_FOUR_BIT, Trained, quantized
from tuneserve.convert.verify.gain import AnswerScores, Score, Scored
from tuneserve.convert.verify.origin import ORIGIN_CONTRACT, check_kept, check_origin
from tuneserve.convert.verify.recorded import CONTRACT, Origin
from tuneserve.finetune.training.recorded import RecordedAnswer, RecordedLosses

IDS = [1, 500, 42, 7, 300, 2]


def answers(count: int) -> list[Scored]:
    place = np.zeros(1, np.int64)
    return [Scored([1, 2], place, place, True, number) for number in range(count)]


def scores(likelihoods: np.ndarray) -> list[Score]:
    return [Score(float(value), np.zeros(1, np.int64)) for value in likelihoods]


def kept(share: float, *, spread: float, count: int = 40) -> Any:
    """Of a gain of 1 nat an answer this share is kept, `spread` over the answers."""
    around = spread * (np.arange(count) % 2 - 0.5)
    examples = answers(count)
    base, after = np.full(count, -1.5), np.full(count, -0.5)
    trained = AnswerScores(examples, scores(base), scores(after))
    merged = AnswerScores(examples, scores(base), scores(base + share + around))
    return check_kept(trained, merged, 0.9)


@pytest.mark.parametrize(
    ("share", "spread", "passed", "told"),
    [
        (1.0, 0.0, True, ""),
        (0.95, 0.01, True, "95.0 % (94.8 % to 95.2 %) of the gain is kept; the tune is fitted"),
        (0.8, 2.0, True, "too few answers to tell that share from all of it"),
        (0.8, 0.1, False, ""),
    ],
)
def test_the_share_of_the_gain_decides(
    share: float, spread: float, passed: bool, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check = kept(share, spread=spread)
    assert check.contract == ORIGIN_CONTRACT
    assert check.passed is passed
    assert check.figures["share"] == pytest.approx(share)
    noted = capsys.readouterr().err
    assert told in noted
    assert bool(told) is ("note: merge_base" in noted)
    if not passed:
        assert (
            "below 90 %: the tune is fitted to the rounding of its 4-bit base too" in check.detail
        )
        assert '--merge-base ""' in check.detail
        assert "another model" not in check.detail


def test_too_few_answers_tell_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    check = kept(0.5, spread=0.0, count=3)
    assert check.passed
    assert check.detail.startswith("a gain can't be told from none on 3 held-out answers")
    assert '(--merge-base "") all of it is kept' in capsys.readouterr().err


def test_the_trained_model_has_the_recorded_losses(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path
) -> None:
    """It is the 4-bit copy with the adapter, by transformers, bitsandbytes and PEFT; the origin has
    others."""
    import torch
    from peft import PeftModel

    copy = tmp_path / "copy"
    kind = KINDS_OF_FOUR_BIT["nf4-nested"]
    peft = PeftModel.from_pretrained(
        quantized(trained.base, copy, tokenizer_directory, kind), trained.adapter
    )
    labels = torch.tensor([[-100] * 3 + IDS[3:]])
    with torch.no_grad():
        loss = float(peft(input_ids=torch.tensor([IDS]), labels=labels).loss)
    answer = RecordedAnswer(ids=IDS, scored=[3, 4, 5], loss=loss)
    recorded = RecordedLosses(precision="bf16", examples=[answer])
    known = Scored(IDS[:-1], np.arange(2, 5), np.asarray(IDS[3:]), True, 0)
    nowhere = [Score(-1.0, np.asarray(IDS[3:]))]
    merged = AnswerScores([known], nowhere, nowhere)

    def as_trained(base: Path) -> bool:
        found = check_origin(
            trained.model(), trained.adapter, Origin(base, 0.9), recorded, merged, threads=1
        )
        assert [check.contract for check in found] == [CONTRACT, ORIGIN_CONTRACT]
        return found[0].passed

    assert as_trained(copy)
    assert not as_trained(trained.base)
