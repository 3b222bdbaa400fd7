"""How many layers fit a GPU, from the demo model's own sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.support import Runner
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel, free_gpu_memory
from tuneserve.memory import GIB
from tuneserve.model_shape import ModelShape
from tuneserve.serve import offload
from tuneserve.serve.offload import (
    CONTEXT_BYTES,
    CONTEXT_STEP,
    MARGIN_BYTES,
    ModelSizes,
    largest_offload,
    longest_context,
    read_sizes,
    usable_bytes,
    with_gpu_layers,
)
from tuneserve.settings import ConvertSettings, ServeSettings

SETTINGS = ServeSettings(ctx=8192)


@pytest.fixture(scope="module")
def sizes(demo_gguf: Path) -> ModelSizes:
    return read_sizes(demo_gguf)


def test_sizes_are_the_files(demo_gguf: Path, sizes: ModelSizes) -> None:
    assert len(sizes.layers) == 30
    assert (sizes.kv_width, sizes.n_embd, sizes.n_vocab) == (192, 576, 49152)
    # Everything but the header, and the input embedding that is the output layer too.
    assert sum(sizes.layers) + sizes.output == pytest.approx(demo_gguf.stat().st_size, rel=0.03)
    # llama.cpp reports 95.62 MiB for 30 layers of 8,192 tokens in q8_0.
    assert 30 * sizes.kv_bytes_per_layer(SETTINGS) == pytest.approx(95.62 * 2**20, rel=0.001)
    f16 = SETTINGS.model_copy(update={"cache_type_k": "f16", "cache_type_v": "f16"})
    assert sizes.kv_bytes_per_layer(f16) * 34 == sizes.kv_bytes_per_layer(SETTINGS) * 64


def test_the_cache_is_counted_by_type_and_context() -> None:
    shape = ModelShape(4096, 14336, 32, 4096, 1024, 128_256, heads=32, tied=False)
    sizes = ModelSizes.of_shape(shape, ConvertSettings())

    def cache(kind: str, ctx: int) -> int:
        return sizes.kv_bytes(ServeSettings(ctx=ctx, cache_type_k=kind, cache_type_v=kind))

    assert cache("f16", 8192) == GIB
    assert cache("q8_0", 8192) == GIB * 17 // 32
    assert cache("f16", 16384) == 2 * GIB


def test_a_shape_has_the_sizes_of_its_gguf(demo_base: Path, tmp_path: Path) -> None:
    """To the byte: the tolerance is 0."""
    path = tmp_path / "demo.gguf"
    model = GGUFModel(MergedCheckpoint(demo_base), demo_base, name="demo")
    write_gguf(path, model.metadata("Q4_K_M"), model.sources, model.choices("Q4_K_M"), threads=2)
    settings = ConvertSettings(quantization="Q4_K_M")
    assert ModelSizes.of_shape(ModelShape.read(demo_base), settings) == read_sizes(path)


def test_the_longest_context_is_the_last_with_which_all_layers_fit(sizes: ModelSizes) -> None:
    def all_fit(ctx: int) -> bool:
        tried = SETTINGS.model_copy(update={"ctx": ctx})
        return largest_offload(sizes, tried, free_bytes=free).layers == 31

    for free in (650 << 20, 1 << 30, 12 << 30):
        ctx = longest_context(sizes, SETTINGS, free_bytes=free)
        assert ctx == 0 or all_fit(ctx)
        assert not all_fit(ctx + CONTEXT_STEP)
    assert longest_context(sizes, SETTINGS, free_bytes=MARGIN_BYTES) == 0


def test_embeddings_have_memory_of_their_own(sizes: ModelSizes) -> None:
    with_them = SETTINGS.model_copy(update={"embeddings": True})
    cache = 30 * (sizes.kv_bytes_per_layer(with_them) - sizes.kv_bytes_per_layer(SETTINGS))
    buffers = sizes.buffer_bytes(with_them) - sizes.buffer_bytes(SETTINGS)
    # llama.cpp reports 45 MiB and 401.06 MiB.
    assert cache == 45 << 20
    assert 401.06 * 2**20 <= buffers <= 520 * 2**20
    free = 700 << 20
    assert (
        largest_offload(sizes, with_them, free_bytes=free).layers
        < largest_offload(sizes, SETTINGS, free_bytes=free).layers
    )


def test_numbers_that_differ_by_layer(tmp_path: Path) -> None:
    path = tmp_path / "uneven.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_array("llama.feed_forward_length", [128, 256])
    writer.add_array("llama.attention.head_count", [4, 8])
    writer.add_array("llama.attention.head_count_kv", [0, 2])
    writer.add_tensor("token_embd.weight", np.zeros((10, 64), np.float32))
    writer.add_tensor("blk.1.ffn_down.weight", np.zeros((64, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sizes = read_sizes(path)
    assert (sizes.n_ff, sizes.kv_width, sizes.layers) == (256, 2 * 8, (0, 64 * 256 * 4))


def test_more_memory_takes_more_layers_and_never_more_than_it_holds(sizes: ModelSizes) -> None:
    fixed = MARGIN_BYTES + sizes.buffer_bytes(SETTINGS)
    counts = []
    for free in range(0, 1 << 30, 16 << 20):
        fit = largest_offload(sizes, SETTINGS, free_bytes=free)
        counts.append(fit.layers)
        on_gpu = sizes.layers[len(sizes.layers) - max(fit.layers - 1, 0) :]
        used = sum(on_gpu) + len(on_gpu) * sizes.kv_bytes_per_layer(SETTINGS)
        assert fit.layers == 0 or fixed + sizes.output + used <= free
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 31)
    assert len(set(counts)) > 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 30 << 30),
        ({"tensor_split": (1, 1)}, 20 << 30),
        ({"tensor_split": (1, 3)}, int((20 << 30) / 0.75)),
        ({"tensor_split": (1, 0)}, 10 << 30),
        ({"split_mode": "none", "main_gpu": 1}, 20 << 30),
        ({"split_mode": "tensor"}, 20 << 30),
        ({"split_mode": "tensor", "tensor_split": (1, 3)}, int((20 << 30) / 0.75)),
        ({"vram": 4.0}, (4 << 30) - 2 * CONTEXT_BYTES),
        ({"vram": 4.0, "tensor_split": (0, 1)}, (4 << 30) - CONTEXT_BYTES),
        ({"vram": 100.0}, 30 << 30),
        ({"vram": 0.1}, 0),
    ],
)
def test_what_several_gpus_can_hold(options: dict[str, Any], expected: int) -> None:
    settings = ServeSettings(**options)
    assert usable_bytes([10 << 30, 20 << 30], settings) == expected


def test_shares_of_gpus_must_be_shares_of_something(tuneserve: Runner) -> None:
    for shares in ("0,0", "1,-1", "x"):
        done = tuneserve("serve", "x.gguf", "--tensor-split", shares)
        assert done.returncode == 2
        assert "tensor_split" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_split_that_llama_cpp_has_no_more_is_refused_with_what_to_take(
    tuneserve: Runner, tmp_path: Path
) -> None:
    done = tuneserve("serve", "x.gguf", "--split-mode", "row", cwd=tmp_path)
    assert done.returncode == 2
    assert "no split by rows any more: take tensor" in done.stderr
    done = tuneserve("serve", "x.gguf", "--split-mode", "column", cwd=tmp_path)
    assert "known are: layer, tensor, none" in done.stderr
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[serve]\nsplit_mode = "row"\n')
    done = tuneserve("serve", "x.gguf", "--config", str(recipe), cwd=tmp_path)
    assert done.returncode == 2
    assert "no split by rows any more: take tensor" in done.stderr
    with pytest.raises(ValueError, match="needs flash_attention"):
        ServeSettings(split_mode="tensor", flash_attention=False)


def test_without_a_gpu_tensors_are_not_split(demo_gguf: Path) -> None:
    if free_gpu_memory():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="no GPU that tensors could be split over"):
        LlamaModel(demo_gguf, split_mode="tensor")


def test_without_a_gpu_nothing_is_offloaded(
    demo_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if free_gpu_memory():
        pytest.skip("there is a GPU")
    chosen = with_gpu_layers(demo_gguf, SETTINGS, tell=True)
    assert chosen.gpu_layers == 0
    assert "GPU layers: 0 (no GPU" in capsys.readouterr().err
    given = SETTINGS.model_copy(update={"gpu_layers": 7})
    assert with_gpu_layers(demo_gguf, given) is given


def test_a_draft_model_comes_first_and_takes_its_place(
    demo_gguf: Path, sizes: ModelSizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [2 << 30]
    monkeypatch.setattr(offload, "free_gpu_memory", lambda: free)
    drafted = SETTINGS.model_copy(update={"draft": demo_gguf, "slots": 1})
    chosen = with_gpu_layers(demo_gguf, drafted)
    assert (chosen.gpu_layers, chosen.draft_gpu_layers) == (31, 31)
    # What is left for the served model is what the draft model, buffers included, does not take.
    free[0] = MARGIN_BYTES + sizes.taken(drafted) + 100_000
    chosen = with_gpu_layers(demo_gguf, drafted)
    assert (chosen.gpu_layers, chosen.draft_gpu_layers) == (0, 31)
    beside = largest_offload(sizes, drafted, free_bytes=2 * free[0], draft=sizes)
    alone = largest_offload(sizes, drafted, free_bytes=2 * free[0] - sizes.taken(drafted))
    assert beside == alone
    # Half of it and its cache, or none.
    free[0] = 2 << 30
    half = with_gpu_layers(demo_gguf, drafted.model_copy(update={"draft_gpu_layers": 16}))
    assert half.draft_gpu_layers == 16
    off = with_gpu_layers(demo_gguf, drafted.model_copy(update={"speculate": "off"}))
    assert off.draft_gpu_layers == -1


def test_words_stand_for_numbers_in_recipes_and_options(tuneserve: Runner, tmp_path: Path) -> None:
    assert ServeSettings(gpu_layers="auto").gpu_layers == -1
    assert ServeSettings(gpu_layers="all").gpu_layers > 1000
    done = tuneserve("serve", "x.gguf", "--gpu-layers", "many", cwd=tmp_path)
    assert done.returncode == 2
    assert "'auto', 'all'" in done.stderr
    for word in ("auto", "all", "3"):
        done = tuneserve("serve", "x.gguf", "--gpu-layers", word, cwd=tmp_path)
        assert "no such file" in done.stderr


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\0" * 20)
    with pytest.raises(UsageError, match=r"bad\.gguf"):
        read_sizes(bad)
