"""A checkpoint whose weights have other layers than its config.json counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import write_small_weights
from tuneserve.base.resolve import check_checkpoint
from tuneserve.base.stored_layers import check_stored_layers
from tuneserve.errors import UsageError
from tuneserve.safetensors import INDEX, SINGLE

_PLACE = Path("folder")


def _names(count: int, prefix: str = "model.layers") -> list[str]:
    return [f"{prefix}.{number}.input_layernorm.weight" for number in range(count)]


_NEXT = [f"model.layers.2.{name}.weight" for name in ("eh_proj", "enorm", "mlp.up_proj")]
_SHELL = {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 5}}


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (_names(2), {"num_hidden_layers": 2}),
        ([*_names(2), *_NEXT], {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}),
        (_names(2), {"num_hidden_layers": 4, "num_layers": 2}),
        ([*_names(2, "language_model.model.layers"), *_names(5, "vision_tower.layers")], _SHELL),
        (_names(2, "model.language_model.layers"), _SHELL),
        ([*_names(2), *_names(3, "mtp.layers")], {"num_hidden_layers": 2}),
        (_names(3, "transformer.h"), {"num_hidden_layers": 2}),  # other names are not read
    ],
)
def test_as_many_layers_as_are_counted(names: list[str], config: dict[str, Any]) -> None:
    check_stored_layers(names, config, _PLACE)


@pytest.mark.parametrize("stored", [1, 3])
@pytest.mark.parametrize(
    "prefix",
    ["model.layers", "model.language_model.layers", "language_model.model.layers"],
)
def test_fewer_and_more_are_refused(stored: int, prefix: str) -> None:
    config = {"num_hidden_layers": 2} if prefix == "model.layers" else _SHELL
    with pytest.raises(UsageError, match=f"num_hidden_layers is 2, .* those of {stored} layers"):
        check_stored_layers(_names(stored, prefix), config, _PLACE)


def test_weights_of_no_layer_are_refused() -> None:
    with pytest.raises(UsageError, match="holds no layer of a model"):
        check_stored_layers(["a"], {"num_hidden_layers": 2}, _PLACE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two layers."""
    config = {"hidden_size": 4, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    write_small_weights(tmp_path / SINGLE)
    check_checkpoint(tmp_path)
    return tmp_path


def test_a_checkpoint_is_refused_by_its_headers(folder: Path) -> None:
    (folder / "config.json").write_text('{"num_hidden_layers": 1}')
    with pytest.raises(UsageError, match=r"config\.json: num_hidden_layers is 1"):
        check_checkpoint(folder)


def test_an_index_of_other_weights_is_refused(folder: Path) -> None:
    shard = "model-00001-of-00001.safetensors"
    (folder / SINGLE).rename(folder / shard)
    for name, refused in (("a", True), ("model.norm.weight", False)):
        index = {"metadata": {}, "weight_map": {name: shard}}
        (folder / INDEX).write_text(json.dumps(index))
        if not refused:
            check_checkpoint(folder)
            continue
        with pytest.raises(UsageError, match="names none of the weights"):
            check_checkpoint(folder)


def test_weights_that_are_no_file_are_not_taken_for_missing(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / SINGLE).symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"model\.safetensors: is no file"):
        check_checkpoint(folder)
