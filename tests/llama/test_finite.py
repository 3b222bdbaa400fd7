"""Weights that are no numbers are told when a file is opened, not by the first request."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.base.gguf_support import HIDDEN, write_tiny
from tests.support import Runner
from tuneserve.errors import UsageError
from tuneserve.gguf.parts import open_whole
from tuneserve.gguf.reader import GGUFFile, GGUFTensor
from tuneserve.llama import LlamaModel
from tuneserve.llama.finite import PIECE_BYTES, mapped_pieces, not_finite

INNER = 256
Q4_K_BLOCK = 144
NAN = np.float32(np.nan).tobytes()
INFINITE_HALF = np.float16(np.inf).tobytes()
WRONG = {
    "blk.0.attn_norm.weight": (4 * 63, NAN),
    "blk.1.ffn_down.weight": (Q4_K_BLOCK * (HIDDEN - 1), INFINITE_HALF),  # a block's scale
    "token_embd.weight": (2 * (HIDDEN * 299 + 5), INFINITE_HALF),  # a token of no trial's text
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny(tmp_path: Path, demo_gguf: Path) -> Path:
    random = np.random.default_rng(0)
    wide = {
        f"blk.{layer}.ffn_{name}.weight": random.normal(0, 0.15, shape).astype(np.float32)
        for layer in range(2)
        for name, shape in
        {"down": (HIDDEN, INNER), "up": (INNER, HIDDEN), "gate": (INNER, HIDDEN)}.items()
    }  # fmt: skip
    return write_tiny(
        tmp_path / "tiny.gguf", GGUFFile(demo_gguf), entries={"feed_forward_length": INNER},
        tensors=wide, types={"blk.1.ffn_down.weight": "Q4_K"},
    )  # fmt: skip


def spoil(path: Path, name: str) -> None:
    place, written = WRONG[name]
    offset = GGUFFile(path).tensor(name).offset + place
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(written)


@pytest.mark.parametrize("name", WRONG)
def test_a_weight_that_is_no_number_is_named_at_the_load(tiny: Path, name: str) -> None:
    with LlamaModel(tiny):
        pass
    spoil(tiny, name)
    with pytest.raises(UsageError, match="can't be a working model") as caught:
        LlamaModel(tiny)
    assert caught.value.problems == [f"{name} holds values that are no finite numbers"]


def test_numbers_that_compute_none_are_told(tiny: Path) -> None:
    norm = GGUFFile(tiny).tensor("output_norm.weight")
    with tiny.open("r+b") as file:
        file.seek(norm.offset)
        file.write(np.full(HIDDEN, 3e38, dtype=np.float32).tobytes())
    with pytest.raises(UsageError) as caught:
        LlamaModel(tiny)
    assert caught.value.problems == ["it computes no finite numbers, though all its weights are"]


@pytest.mark.parametrize(
    "command",
    [("serve", "FILE", "--port", "0"), ("serve", "DEMO", "--draft", "FILE", "--port", "0"),
     ("import", "FILE", "out"), ("plan", "--base", "FILE"),
     ("train", "--run", "a", "--base", "FILE", "--file", "DATA")],
    ids=lambda command: " ".join(command[:2]),
)  # fmt: skip
def test_every_command_that_opens_a_model_tells(
    command: tuple[str, ...], tiny: Path, demo_gguf: Path, tmp_path: Path, tuneserve: Runner
) -> None:
    spoil(tiny, "token_embd.weight")
    rows = [json.dumps({"instruction": f"{n}?", "output": str(n)}) + "\n" for n in range(99)]
    (tmp_path / "data.jsonl").write_text("".join(rows))
    paths = {"FILE": str(tiny), "DEMO": str(demo_gguf), "DATA": "data.jsonl"}
    done = tuneserve(*(paths.get(word, word) for word in command), cwd=tmp_path, timeout=100)
    assert done.returncode == 2, done.stderr
    assert f"error: {tiny}: this GGUF can't be a working model" in done.stderr
    assert "token_embd.weight holds values that are no finite numbers" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", [(0, 0), (1, 17), (2, -1)])
def test_all_of_a_large_tensor_is_read(place: tuple[int, int]) -> None:
    rows = np.zeros((3, PIECE_BYTES // 4), dtype=np.float32)
    rows[place] = np.inf
    tensor = GGUFTensor(0, rows.shape, 0, rows.nbytes, rows.view(np.uint8).reshape(-1))
    assert not_finite(mapped_pieces("wrong", tensor), 2) == ["wrong"]
    rows[place] = 0
    assert not_finite(mapped_pieces("right", tensor), 2) == []


def test_every_byte_of_a_file_is_in_one_piece(demo_gguf: Path) -> None:
    for name, tensor in open_whole(demo_gguf).tensors.items():
        pieces = [read() for _, _, read in mapped_pieces(name, tensor)]
        assert sum(piece.nbytes for piece in pieces) == tensor.size
        assert all(piece.flags.c_contiguous for piece in pieces)
