"""Headers of safetensors files: what the safetensors library refuses is refused here, too."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from tuneserve.errors import UsageError
from tuneserve.safetensors import (
    SafetensorsWriter,
    TensorSpec,
    checkpoint_tensors,
    stored_tensors,
    weight_files,
)

_A = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
_B = {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}
_DATA = bytes(range(24))


def _write(path: Path, header: Any, data: bytes = _DATA) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.safetensors", {"__metadata__": {"format": "pt"}, "b": _B, "a": _A})
    found = stored_tensors(path)
    assert list(found) == ["b", "a"]
    assert found["a"].rows().tobytes() == _DATA[:16]
    assert found["b"].shape == (4,)


_BAD: dict[str, Any] = {
    "a list": [_A],
    "null": b"null",
    "not JSON": b"{'a': 1}",
    "a blank in front": b" " + json.dumps({"a": _A, "b": _B}).encode(),
    "deep": b'{"a":' + b"[" * 200_000,
    "a name twice": json.dumps({"a": _A, "b": _B}).replace('"b"', '"a"').encode(),
    "notes that are no texts": {"__metadata__": {"x": 1}, "a": _A, "b": _B},
    "an unknown type": {"a": {**_A, "dtype": "F99"}, "b": _B},
    "a type that is a list": {"a": {**_A, "dtype": []}, "b": _B},
    "a negative shape": {"a": {**_A, "shape": [-2, -2]}, "b": _B},
    "a shape of 2**40": {"a": {**_A, "shape": [2**40]}, "b": _B},
    "a shape beyond 64 bits": {"a": {**_A, "shape": [2**62, 4]}, "b": _B},
    "a shape that is text": {"a": {**_A, "shape": "22"}, "b": _B},
    "a shape of another size": {"a": {**_A, "shape": [2, 3]}, "b": _B},
    "an axis that is a fraction": {"a": {**_A, "shape": [2.0, 2]}, "b": _B},
    "the same bytes twice": {"a": _A, "b": {**_A}},
    "bytes of no tensor": {"a": _A},
    "a hole": {"a": _A, "b": {**_B, "data_offsets": [17, 25]}},
    "beyond the end": {"a": _A, "b": {**_B, "shape": [8], "data_offsets": [16, 32]}},
    "backwards": {"a": {**_A, "data_offsets": [16, 0]}, "b": _B},
    "no place": {"a": {"dtype": "F32", "shape": [2, 2]}, "b": _B},
    "no entry": {"a": 1, "b": _B},
}


@pytest.mark.parametrize("kind", _BAD)
def test_headers_that_the_library_refuses(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path / "a.safetensors", _BAD[kind])
    with pytest.raises(UsageError, match=r"a\.safetensors") as caught:
        stored_tensors(path)
    assert caught.value.message
    # Of two entries of a name the library takes the later one; the format has no blanks in front.
    if kind not in ("a name twice", "a blank in front"):
        with pytest.raises(safetensors.SafetensorError):
            safetensors.safe_open(path, "numpy")


@pytest.mark.parametrize("length", [0, 1, 2**62, 2**64 - 1])
def test_lengths_of_a_header_that_no_file_has(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + _DATA)
    with pytest.raises(UsageError, match="the header's length"):
        stored_tensors(path)


def test_mutations_are_refused_or_read_as_the_library_reads_them(tmp_path: Path) -> None:
    """2,000 files with bytes changed, cut or added; nothing but UsageError is raised, and nothing
    that the library refuses is taken."""
    good = _write(tmp_path / "good", {"a": _A, "b": _B}).read_bytes()
    path = tmp_path / "a.safetensors"
    taken = 0
    for seed in range(2000):
        chance = random.Random(seed)
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b'0123456789[]{}",:-e. \x00\xff')
        if chance.random() < 0.2:
            data = data[: chance.randrange(len(data))]
        path.write_bytes(data)
        try:
            ours = stored_tensors(path)
        except UsageError:
            continue
        taken += 1
        with safetensors.safe_open(path, "numpy") as file:
            assert set(file.keys()) == ours.keys()
            for name, tensor in ours.items():
                assert tuple(file.get_slice(name).get_shape()) == tensor.shape
    assert 0 < taken < 1000


def _shard(path: Path, *names: str) -> None:
    specs = [TensorSpec(name, "F32", (1,)) for name in names]
    with SafetensorsWriter(path, specs) as writer:
        for name in names:
            writer.write(name, [np.ones(1, "<f4").tobytes()])


def _index(folder: Path, files: Any) -> None:
    content = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_a_weight_in_two_shards_is_refused(tmp_path: Path) -> None:
    _shard(tmp_path / "1.safetensors", "a", "b")
    _shard(tmp_path / "2.safetensors", "b")
    _index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    with pytest.raises(UsageError, match="another shard has") as caught:
        checkpoint_tensors(tmp_path)
    assert caught.value.problems == ["'b'"]


@pytest.mark.parametrize(
    "name", ["../x/1.safetensors", "/tmp/1.safetensors", "..", "a\0b", "x" * 300, "\x1b[2J", 1, ""]
)
def test_an_index_names_files_beside_it(tmp_path: Path, name: object) -> None:
    _index(tmp_path, {"a": name})
    with pytest.raises(UsageError, match="names"):
        weight_files(tmp_path)


def test_links_stay_in_the_folder_or_in_the_hubs_cache(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside.safetensors", tmp_path / "model"
    _shard(outside, "a")
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(UsageError, match="link to a file of another folder"):
        weight_files(folder)
    blob = tmp_path / "models--x" / "blobs" / "123"
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    outside.rename(blob)
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    assert list(checkpoint_tensors(snapshot)) == ["a"]
    # A folder may be a link itself.
    (tmp_path / "named").symlink_to(snapshot)
    assert list(checkpoint_tensors(tmp_path / "named")) == ["a"]
