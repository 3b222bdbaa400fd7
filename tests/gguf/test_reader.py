"""Reading GGUFs: what the gguf package reads, and one clear error for what no GGUF should hold."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneserve.errors import UsageError
from tuneserve.gguf.reader import ALIGNMENT, HEADER_BYTES, STRING, GGUFFile

U8, U32, ARRAY, U64 = 0, 4, 9, 10
F32, Q4_0 = 0, 2
FILES = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_same_as_gguf_package(path: Path) -> None:
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        assert ours.value_types[key] == field.types[0]
        expected = field.contents()
        assert repr(ours.metadata[key]) == repr(expected), key
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        assert found.type == tensor.tensor_type
        assert found.type_name == tensor.tensor_type.name
        assert list(found.shape) == tensor.shape.tolist()[::-1]
        assert (found.offset, found.size) == (tensor.data_offset, tensor.n_bytes)
        assert found.n_elements == tensor.n_elements
        assert found.data.tobytes() == tensor.data.tobytes()


def test_reads_what_the_gguf_package_reads(demo_gguf: Path) -> None:
    assert_same_as_gguf_package(demo_gguf)


def test_reads_all_vocabularies_of_llama_cpp(llama_cpp_source: Path) -> None:
    paths = sorted((llama_cpp_source / "models").glob("ggml-vocab-*.gguf"))
    assert len(paths) > 10
    # The smallest ones: the gguf package takes seconds for a large one.
    for path in sorted(paths, key=lambda path: path.stat().st_size)[:4]:
        assert_same_as_gguf_package(path)


INTEGERS = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767),
            "uint32": (0, 2**32 - 1), "int32": (-(2**31), 2**31 - 1), "uint64": (0, 2**64 - 1),
            "int64": (-(2**63), 2**63 - 1)}  # fmt: skip
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.integers(*bounds) for name, bounds in INTEGERS.items()},
    "float32": st.floats(width=32, allow_nan=False), "float64": st.floats(allow_nan=False),
    "bool": st.booleans(), "string": st.text(st.characters(codec="utf-8"), max_size=20),
}  # fmt: skip
ENTRY = st.sampled_from(sorted(VALUES)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), VALUES[kind] | st.lists(VALUES[kind], min_size=1, max_size=5)
    )
)
SHAPE = st.lists(st.integers(1, 4), max_size=3)
TENSOR = st.tuples(st.sampled_from(["F32", "F16", "Q8_0", "Q4_0"]), SHAPE, st.integers(1, 3))


@FILES
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), ENTRY),
    st.dictionaries(st.text("abc.", min_size=1, max_size=9), TENSOR, max_size=4),
    st.sampled_from([None, 8, 32, 256]),
)
def test_made_files(
    tmp_path: Path,
    metadata: dict[str, tuple[str, Any]],
    tensors: dict[str, tuple[str, list[int], int]],
    alignment: int | None,
) -> None:
    path = tmp_path / "made.gguf"
    writer = gguf.GGUFWriter(path, "made")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, (kind, value) in metadata.items():
        of_value = gguf.GGUFValueType[kind.upper()]
        if isinstance(value, list):
            writer.add_key_value(f"x.{key}", value, gguf.GGUFValueType.ARRAY, sub_type=of_value)
        else:
            writer.add_key_value(f"x.{key}", value, of_value)
    random = np.random.default_rng(0)
    for name, (kind, rows, blocks) in tensors.items():
        number = gguf.GGMLQuantizationType[kind]
        size = gguf.GGML_QUANT_SIZES[number][1]
        data = random.integers(0, 255, (*rows, blocks * size), dtype=np.uint8)
        writer.add_tensor(name, data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_same_as_gguf_package(path)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def tensor(
    name: str = "t", shape: tuple[int, ...] = (32, 2), kind: int = F32, offset: int = 0
) -> bytes:
    """`shape` in the file's order: columns first."""
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def file(
    *entries: bytes, tensors: tuple[bytes, ...] = (), data: int = 256, version: int = 3,
    n_values: int | None = None, n_tensors: int | None = None,
) -> bytes:  # fmt: skip
    """A GGUF of raw metadata `entries` and `tensors`, with `data` bytes behind the header."""
    counts = (len(tensors) if n_tensors is None else n_tensors,
              len(entries) if n_values is None else n_values)  # fmt: skip
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*entries, *tensors])
    return header + bytes(-len(header) % ALIGNMENT + data)


def entry(kind: int, value: bytes, key: str = "key") -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(inner: int, count: int, values: bytes = b"") -> bytes:
    return entry(ARRAY, struct.pack("<IQ", inner, count) + values)


def nested(depth: int) -> bytes:
    inner = struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", U32, 0)
    return entry(ARRAY, inner)


def alignment(kind: int, value: bytes) -> bytes:
    return entry(kind, value, "general.alignment")


DAMAGED = {
    "version": file(version=1),
    "big endian": file(version=3 << 24),
    "only the magic": b"GGUF",
    "endless values": file(n_values=2**60),
    "endless tensors": file(n_tensors=2**60),
    "endless text": file(entry(STRING, struct.pack("<Q", 2**64 - 1))),
    "text behind the end": file(entry(STRING, struct.pack("<Q", 1000))),
    "endless array of texts": file(array(STRING, 2**60)),
    "endless array of bytes": file(array(U8, 2**60)),
    "endless array of numbers": file(array(U64, 2**63)),
    "array in an array": file(nested(1)),
    "arrays in arrays": file(nested(5000)),
    "unknown type": file(entry(99, b"")),
    "array of an unknown type": file(array(99, 1)),
    "key twice": file(entry(U8, b"a"), entry(U8, b"b")),
    "no UTF-8": file(entry(STRING, text(b"\xff\xfe"))),
    "alignment of 0": file(alignment(U32, struct.pack("<I", 0))),
    "alignment of 3": file(alignment(U32, struct.pack("<I", 3))),
    "alignment of text": file(alignment(STRING, text("32"))),
    "alignment of a list": file(alignment(ARRAY, struct.pack("<IQI", U32, 1, 32))),
    "no dimension": file(tensors=(tensor(shape=()),)),
    "nine dimensions": file(tensors=(tensor(shape=(1,) * 9),)),
    "endless dimensions": file(tensors=(tensor(shape=(2**63, 2)),)),
    "empty and endless": file(tensors=(tensor(shape=(0, 2**62)),)),
    "half a block": file(tensors=(tensor(shape=(31, 2), kind=Q4_0),)),
    "unknown tensor type": file(tensors=(tensor(kind=255),)),
    "tensor twice": file(tensors=(tensor(), tensor(offset=256))),
    "behind the end": file(tensors=(tensor(),), data=128),
    "far behind the end": file(tensors=(tensor(offset=2**63 - 64),)),
    "two at one place": file(tensors=(tensor(), tensor("u"))),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_clear_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(UsageError, match=r"damaged\.gguf: this GGUF is truncated or damaged: "):
        GGUFFile(path)


def test_what_the_damaged_ones_are_made_of_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "whole.gguf"
    path.write_bytes(file(entry(STRING, text("ä")), tensors=(tensor(), tensor("u", offset=256)),
                          data=512))  # fmt: skip
    found = GGUFFile(path)
    assert found.metadata == {"key": "ä"}
    assert {name: one.shape for name, one in found.tensors.items()} == {"t": (2, 32), "u": (2, 32)}
    with pytest.raises(UsageError, match="has no tensor 'x'"):
        found.shape("x")


@pytest.mark.parametrize("kind", ["array", "text"])
def test_a_header_can_not_take_much_memory(tmp_path: Path, kind: str) -> None:
    """A file that is as long as its header claims: 20 GiB."""
    count = 20 << 30
    claim = struct.pack("<IQ", U8, count) if kind == "array" else struct.pack("<Q", count)
    path = tmp_path / "long.gguf"
    path.write_bytes(file(entry(ARRAY if kind == "array" else STRING, claim)))
    with path.open("r+b") as made:
        made.truncate(2 * count)  # sparse: it takes no space
    assert count > HEADER_BYTES
    with pytest.raises(UsageError, match="header runs out of"):
        GGUFFile(path)


@FILES
@given(st.data())
def test_changed_bytes_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    names = [entry(STRING, text("llama"), "general.architecture"),
             entry(ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("b"), "tokens"),
             entry(ARRAY, struct.pack("<IQ3I", U32, 3, 1, 2, 3), "types")]  # fmt: skip
    content = bytearray(file(*names, tensors=(tensor(), tensor("u", offset=256)), data=512))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(4, len(content) - 513))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.gguf"
    path.write_bytes(content[: data.draw(st.integers(4, len(content)))])
    try:
        found = GGUFFile(path)
    except UsageError as error:
        assert "truncated or damaged" in error.message
    else:
        for one in found.tensors.values():
            assert one.data.nbytes == one.size
            assert one.type_name
