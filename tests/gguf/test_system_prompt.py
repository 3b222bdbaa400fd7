"""The system prompt in a GGUF: written, read, and all else as it was."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.system_prompt import (
    SYSTEM_PROMPT,
    system_prompt_of,
    write_with_system_prompt,
)

PROMPT = 'Antworte kurz – "ja" oder "nein".\nSonst nichts. 🙂'


def made(path: Path, *, alignment: int | None = None) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "d" * 77])
    for number in range(3):
        writer.add_tensor(f"t{number}", np.arange(7 + number, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [None, 128])
@pytest.mark.parametrize("prompt", [PROMPT, "x", "y" * 5000])
def test_all_else_is_the_same(tmp_path: Path, prompt: str, alignment: int | None) -> None:
    plain = GGUFFile(made(tmp_path / "plain.gguf", alignment=alignment))
    assert system_prompt_of(plain) == ""
    target = tmp_path / "with.gguf"
    write_with_system_prompt(plain.path, target, prompt)
    found = GGUFFile(target)
    assert system_prompt_of(found) == prompt
    assert found.metadata == {**plain.metadata, SYSTEM_PROMPT: prompt}
    assert list(found.tensors) == list(plain.tensors)
    for name, tensor in plain.tensors.items():
        assert bytes(found.tensors[name].data) == bytes(tensor.data)
        assert found.tensors[name].offset % (alignment or 32) == 0
    # Another program's reader sees the same.
    theirs = gguf.GGUFReader(str(target))
    assert theirs.get_field(SYSTEM_PROMPT).contents() == prompt
    assert bytes(theirs.tensors[2].data) == bytes(plain.tensors["t2"].data)


def test_a_key_of_another_type_is_none(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "llama")
    writer.add_uint32(SYSTEM_PROMPT, 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert system_prompt_of(GGUFFile(tmp_path / "x.gguf")) == ""


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = made(tmp_path / "cut.gguf")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="truncated or damaged"):
        write_with_system_prompt(path, tmp_path / "x", "p")
    assert not (tmp_path / "x").exists()
