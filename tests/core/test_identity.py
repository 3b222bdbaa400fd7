"""Changed files are named."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import sha256_file
from tuneserve.identity import base_files, check_unchanged, hashes_of, known_sha256
from tuneserve.safetensors import SafetensorsWriter, TensorSpec, checkpoint_tensors, weight_files


def weights(path: Path, value: float) -> Path:
    import numpy as np

    with SafetensorsWriter(path, [TensorSpec("a", "F32", (1,))]) as writer:
        writer.write("a", [np.array([value], "<f4").tobytes()])
    return path


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    recorded = hashes_of(tmp_path.iterdir(), tmp_path)
    check_unchanged(recorded, tmp_path, what="this", hint="")
    (tmp_path / "more").touch()
    check_unchanged(recorded, tmp_path, what="this", hint="")
    (tmp_path / "a").write_text("A")
    (tmp_path / "b").unlink()
    with pytest.raises(TuneserveError, match="this is not as training left it") as caught:
        check_unchanged(recorded, tmp_path, what="this", hint="")
    assert caught.value.problems == [f"{tmp_path}/a: changed", f"{tmp_path}/b: missing"]


def test_the_file_that_transformers_reads_goes_before_a_stale_index(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    shard = weights(tmp_path / "model-00001-of-00001.safetensors", 1.0)
    weights(tmp_path / "consolidated.safetensors", 3.0)
    assert weight_files(tmp_path) == [shard]
    single = weights(tmp_path / "model.safetensors", 2.0)
    assert weight_files(tmp_path) == [single]
    assert checkpoint_tensors(tmp_path)["a"].rows().tolist() == [2.0]
    assert base_files(tmp_path) == [tmp_path / "config.json", single]


def test_an_index_that_names_other_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"metadata": {}, "weight_map": {"a": "../elsewhere.safetensors"}}'
    )
    with pytest.raises(UsageError, match="other folders"):
        weight_files(tmp_path)


def test_other_weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    weights(tmp_path / "consolidated.safetensors", 1.0)
    assert weight_files(tmp_path) == []
    with pytest.raises(UsageError, match=r"neither model\.safetensors"):
        checkpoint_tensors(tmp_path)


def test_a_large_file_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tuneserve.identity.LARGE_BYTES", 4)
    monkeypatch.setattr("tuneserve.identity._SETTLED_NS", 0)
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr("tuneserve.identity.sha256_file", counted)
    base, small = tmp_path / "base", tmp_path / "small"
    base.write_text("weights")
    small.write_text("abc")
    first = known_sha256(base)
    assert first == known_sha256(base) == sha256_file(base)
    assert read == [base]
    known_sha256(small)
    known_sha256(small)
    assert read == [base, small, small]
    # Two bits flipped, the size and the time of the last change kept.
    times = base.stat()
    base.write_text("weighus")
    os.utime(base, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert known_sha256(base) == sha256_file(base) != first
    (tmp_path / "cache" / "sha256.json").write_text("[1")
    assert known_sha256(base) == sha256_file(base)


def test_what_changed_just_now_or_in_the_future_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change within the clock's resolution would not be seen."""
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tuneserve.identity.LARGE_BYTES", 4)
    base = tmp_path / "base"
    for ahead in (0, 10**12):
        base.write_text("weights")
        os.utime(base, ns=(0, time.time_ns() + ahead))
        known_sha256(base)
    assert not (tmp_path / "cache" / "sha256.json").exists()


def test_without_a_cache_files_are_hashed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tuneserve.identity.LARGE_BYTES", 4)
    monkeypatch.setattr("tuneserve.identity._SETTLED_NS", 0)
    (tmp_path / "base").write_text("weights")
    assert known_sha256(tmp_path / "base") == sha256_file(tmp_path / "base")
