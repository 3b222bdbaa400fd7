"""Checkpoints that are not whole: one clear error before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.convert.convert_support import Trained
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.errors import UsageError
from tuneserve.safetensors import checkpoint_tensors

WEIGHTS = "model.safetensors"


@pytest.fixture
def base(trained: Trained, tmp_path: Path) -> Path:
    return shutil.copytree(trained.base, tmp_path / "base")


def test_no_weights_and_missing_shards(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither model\.safetensors nor") as caught:
        checkpoint_tensors(tmp_path)
    assert caught.value.where == str(tmp_path)
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    with pytest.raises(UsageError, match="shards are missing") as caught:
        checkpoint_tensors(tmp_path)
    assert caught.value.problems == sorted(shards.values())


def test_an_index_that_transformers_does_not_read(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(UsageError, match="has no metadata") as caught:
        checkpoint_tensors(tmp_path)
    assert caught.value.where == str(index)


@pytest.mark.parametrize("size", [0, 7, 100, 20_000])
def test_weights_that_are_cut_off(base: Path, size: int) -> None:
    path = base / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UsageError, match="this safetensors file is truncated or damaged") as caught:
        MergedCheckpoint(base)
    assert caught.value.where == str(path)


def test_weights_that_are_cut_off_while_they_are_read(base: Path) -> None:
    files = checkpoint_tensors(base)
    path = base / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])
    last = max((files[name] for name in files), key=lambda tensor: tensor.offset)
    with pytest.raises(UsageError, match="this safetensors file is truncated") as caught:
        last.rows()
    assert caught.value.where == str(path)


def test_tensors_that_a_layer_lacks_are_named(base: Path) -> None:
    from safetensors.numpy import load_file, save_file

    gone = {"model.norm.weight", "model.layers.1.mlp.up_proj.weight"}
    kept = {n: t for n, t in load_file(base / WEIGHTS).items() if n not in gone}
    save_file(kept, base / WEIGHTS)
    with pytest.raises(UsageError, match="2 tensors are missing from the checkpoint") as caught:
        GGUFModel(MergedCheckpoint(base), base, name="x")
    assert caught.value.where == str(base)
    assert set(caught.value.problems) == gone


def test_a_tokenizer_that_is_something_else(base: Path) -> None:
    for content, message, line in (("[1]", "not a JSON object", ""), ("{", "not valid JSON", ":1")):
        (base / "tokenizer.json").write_text(content)
        with pytest.raises(UsageError, match=message) as caught:
            GGUFModel(MergedCheckpoint(base), base, name="x")
        assert caught.value.where == f"{base / 'tokenizer.json'}{line}"
