"""The quicker writer of metadata writes what gguf's own writes, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType, GGUFWriter

from tuneserve.convert.gguf.array_writer import ArrayWriter
from tuneserve.gguf.tokens import TokenType

VALUES: dict[str, Any] = {
    "texts": ["a", "", "Straße", "日本", "x" * 70_000],
    "bytes": [b"a", b"\xff"],
    "types": [TokenType.NORMAL, TokenType.CONTROL],
    "numbers": [1, -2, 3],
    "scores": [0.0, -1e4, float("inf")],
    "flags": [True, False],
    "nested": [[1, 2], [3]],
    "raw": b"abc",
    "many": tuple(range(5)),
}


def written(kind: type, path: Path, **values: Any) -> bytes:
    writer = kind(path, "llama", use_temp_file=False)
    for key, value in values.items():
        writer.add_key_value(key, value, GGUFValueType.ARRAY)
    writer.add_key_value("unsigned", [1, 2**31], GGUFValueType.ARRAY, GGUFValueType.UINT32)
    writer.add_key_value("name", "ü", GGUFValueType.STRING)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path.read_bytes()


def test_the_same_bytes(tmp_path: Path) -> None:
    ours, theirs = (
        written(kind, tmp_path / kind.__name__, **VALUES) for kind in (ArrayWriter, GGUFWriter)
    )
    assert ours == theirs


@pytest.mark.parametrize("mixed", [["a", 1], [1, 0.5], [1, True], []])
def test_what_the_library_refuses_is_refused(tmp_path: Path, mixed: list[Any]) -> None:
    for kind in (ArrayWriter, GGUFWriter):
        with pytest.raises(ValueError, match="array"):
            written(kind, tmp_path / kind.__name__, mixed=mixed)
