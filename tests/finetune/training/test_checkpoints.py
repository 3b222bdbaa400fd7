"""Which checkpoint a training goes on from, and when it refuses to."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import write_small_weights
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.training.checkpoints import (
    checkpoint_at,
    claim,
    discard,
    drop_older,
    fingerprint,
    last_checkpoint,
    remembered_strategy,
    seal,
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
    seal(path)
    return path


def test_the_same_training_goes_on_from_its_last_whole_checkpoint(tmp_path: Path) -> None:
    assert claim(tmp_path, identity(r=8)) is None
    whole = checkpoint(tmp_path, 20)
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 30, PARTS[:-1])
    (checkpoint(tmp_path, 40) / "sha256.json").unlink()  # their form shows what they are
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


def test_a_training_of_an_older_release_goes_on(tmp_path: Path) -> None:
    """It did not know a setting of today's, and wrote one down that counts no more."""
    claim(tmp_path, identity(r=8))
    whole = checkpoint(tmp_path, 20)
    record = tmp_path / "fingerprint.json"
    written = json.loads(record.read_text())
    del (
        written["settings"]["train"]["prefix_sharing"],
        written["settings"]["data"]["near_duplicates"],
    )
    record.write_text(json.dumps(written))
    assert claim(tmp_path, identity(r=8)) == whole
    written["settings"]["train"] |= {"gpus": 2, "r": 4}
    record.write_text(json.dumps(written))
    with pytest.raises(UsageError, match=r"train\.r = 4 instead of 8"):
        claim(tmp_path, identity(r=8))


def test_a_damaged_checkpoint_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim(tmp_path, identity())
    older, newer = checkpoint(tmp_path, 4), checkpoint(tmp_path, 8)
    assert claim(tmp_path, identity()) == newer
    for name, content in (("adapter_model.safetensors", "[]"), ("optimizer.pt", "")):
        (newer / name).write_text(content)
        assert claim(tmp_path, identity()) == older
        assert f"{newer} is left out: {newer / name}: changed" in capsys.readouterr().err
        assert checkpoint_at(tmp_path, 8) is None
        (newer / name).write_text("{}")
    (older / "scheduler.pt").unlink()
    (newer / "sha256.json").write_text("\0" * 20)
    assert claim(tmp_path, identity()) is None


def test_without_hashes_the_form_of_the_files_is_looked_at(tmp_path: Path) -> None:
    """A kill came before the hashes, or an older release wrote the checkpoint."""
    path = checkpoint(tmp_path, 4)
    (path / "sha256.json").unlink()
    write_small_weights(path / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        with zipfile.ZipFile(path / name, "w") as archive:
            archive.writestr("data.pkl", b"0123456789")
    assert last_checkpoint(tmp_path) == path
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    for name, content in whole.items():
        for damaged in (content[: len(content) // 2], bytes(len(content))):
            (path / name).write_bytes(damaged)
            assert last_checkpoint(tmp_path) is None
        (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("best", "keep", "left"),
    [(None, 2, {8, 10}), (4, 2, {4, 10}), (4, 3, {4, 8, 10}), (10, 1, {10})],
)
def test_the_last_the_best_and_the_newest_are_kept(
    tmp_path: Path, best: int | None, keep: int, left: set[int]
) -> None:
    for step in (2, 4, 6, 8, 10):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 30)  # left out as damaged by a training that goes on from an older one
    drop_older(tmp_path, last=10, best=best, keep=keep)
    assert {int(path.name[11:]) for path in tmp_path.iterdir()} == left | {30}


@pytest.mark.parametrize("content", ["", '{"settings": {"tr', "[1]", "\0\0\0", '{"settings": []}'])
def test_damaged_records_of_a_training_are_one_error_with_a_way_out(
    tmp_path: Path, content: str
) -> None:
    for name, read in (
        ("fingerprint.json", lambda: claim(tmp_path, identity())),
        ("memory_strategy.json", lambda: remembered_strategy(tmp_path)),
    ):
        folder = tmp_path / "checkpoints"
        claim(tmp_path, identity())
        checkpoint(tmp_path, 4)
        (tmp_path / name).write_text(content)
        with pytest.raises(TuneserveError) as caught:
            read()
        assert "--force" in caught.value.render()
        discard(tmp_path)
        assert not folder.exists()


def test_what_is_no_trainings_is_not_deleted_with_it(tmp_path: Path) -> None:
    checkpoint(tmp_path, 4)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="would be deleted with it") as caught:
        discard(tmp_path)
    assert caught.value.problems == ["notes.txt"]
    assert (tmp_path / "checkpoint-4").is_dir()
    (tmp_path / "notes.txt").rename(tmp_path / "checkpoint-4" / "notes.txt")
    (tmp_path / "checkpoint-4-good").mkdir()
    with pytest.raises(UsageError, match="would be deleted with it") as caught:
        discard(tmp_path)
    assert caught.value.problems == ["checkpoint-4-good"]
    (tmp_path / "checkpoint-4-good").rmdir()
    with pytest.raises(UsageError, match=r"checkpoint-4: .* would be deleted with it") as caught:
        discard(tmp_path)
    assert caught.value.problems == ["notes.txt"]
    checkpoint(tmp_path, 6)
    checkpoint(tmp_path, 8)
    drop_older(tmp_path, last=8, best=None, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-8"}
    (tmp_path / "checkpoint-4" / "notes.txt").unlink()
    discard(tmp_path)
    assert not tmp_path.exists()
