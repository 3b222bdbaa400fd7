"""Changed files are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.identity import base_files, check_unchanged, hashes_of
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
