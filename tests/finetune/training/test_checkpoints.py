"""Which checkpoint a training goes on from, and when it refuses to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.training.checkpoints import (
    claim,
    fingerprint,
    last_checkpoint,
    remember_hashes,
)
from tuneserve.settings import Recipe

PARTS = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def identity(base: str = "demo", **train: Any) -> dict[str, Any]:
    return fingerprint(Recipe.model_validate({"train": train}), base=base, data="abc")


def checkpoint(directory: Path, step: int, parts: tuple[str, ...] = PARTS) -> Path:
    path = directory / f"checkpoint-{step}"
    path.mkdir()
    for name in parts:
        (path / name).write_text("{}")
    return path


def test_the_same_training_goes_on_from_its_last_whole_checkpoint(tmp_path: Path) -> None:
    assert claim(tmp_path, identity(r=8)) is None
    whole = checkpoint(tmp_path, 20)
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 30, PARTS[:-1])
    (checkpoint(tmp_path, 40) / "trainer_state.json").write_text('{"cut": ')
    assert last_checkpoint(tmp_path) == whole
    assert claim(tmp_path, identity(r=8)) == whole


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (identity(r=4), "train.r = 8 instead of 4"),
        (identity("other", r=8), "another base model or other data"),
    ],
)
def test_another_training_is_named_with_its_difference(
    tmp_path: Path, other: dict[str, Any], difference: str
) -> None:
    claim(tmp_path, identity(r=8))
    checkpoint(tmp_path, 20)
    with pytest.raises(UsageError) as caught:
        claim(tmp_path, other)
    assert caught.value.render() == (
        f"{tmp_path}: an unfinished training with {difference} is here\n"
        "  Pass --force to start afresh, or choose another run with --run NAME."
    )
    assert caught.value.exit_code == 2


def test_a_checkpoint_that_changed_is_not_gone_on_from(tmp_path: Path) -> None:
    claim(tmp_path, identity())
    last = checkpoint(tmp_path, 4)
    remember_hashes(last)
    assert claim(tmp_path, identity()) == last
    (last / "adapter_model.safetensors").write_text("[]")
    with pytest.raises(
        TuneserveError, match="this checkpoint is not as training left it"
    ) as caught:
        claim(tmp_path, identity())
    assert caught.value.problems == [f"{last / 'adapter_model.safetensors'}: changed"]
