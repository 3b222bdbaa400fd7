"""Perplexity of a text: chunks as llama-perplexity cuts them, whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.base.gguf_support import write_tiny
from tuneserve.bench.measure.perplexity import (
    chunked,
    perplexity_context,
    read_corpus,
    summarise_divergence,
    summarise_perplexity,
    text_divergence,
    text_nll,
)
from tuneserve.divergence import token_nll
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaContext, LlamaModel
from tuneserve.settings import ServeSettings

TEXT = " ".join(f"The {n}th house on the street has {n % 7} windows and a door." for n in range(40))
SETTINGS = ServeSettings(threads=1, cache_type_k="f32", cache_type_v="f32", flash_attention=False)


@pytest.fixture(scope="module")
def model(demo_gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(demo_gguf) as loaded:
        yield loaded


def test_text_is_cut_into_whole_chunks(model: LlamaModel) -> None:
    tokens = model.tokenize(TEXT, add_special=True, parse_special=False)
    chunks = chunked(model, TEXT, 64)
    assert chunks.shape == (len(tokens) // 64, 64)
    assert chunks.ravel().tolist() == tokens[: chunks.size]
    with pytest.raises(UsageError, match="needs 1024"):
        chunked(model, "short", 512)


@pytest.mark.parametrize("batch", [256, 64, 32])
def test_second_halves_are_scored_whatever_the_batch(model: LlamaModel, batch: int) -> None:
    chunks = chunked(model, TEXT, 64)[:3]
    with perplexity_context(model, SETTINGS, 64, batch) as context:
        assert context.n_batch == batch
        ticks: list[int] = []
        losses = text_nll(context, chunks, ticks.append)
    assert losses.shape == (3, 31)
    assert sum(ticks) == 3
    with LlamaContext(
        model, n_ctx=64, threads=1, cache_type_k="f32", cache_type_v="f32", flash_attention=False
    ) as plain:
        for chunk, row in zip(chunks.tolist(), losses, strict=True):
            logits = plain.logits(chunk, start=32)
            expected = [
                token_nll(one, token) for one, token in zip(logits, chunk[33:], strict=False)
            ]
            # Quantized activations: how tokens share a batch moves single tokens, not the sum.
            assert row.sum() == pytest.approx(sum(expected), rel=0.02)


def test_figures_of_a_perplexity() -> None:
    losses = np.array([[1.0, 2.0], [3.0, 4.0]])
    found = summarise_perplexity(losses)
    assert found.perplexity.value == pytest.approx(math.exp(2.5))
    assert found.perplexity.error == pytest.approx(math.exp(2.5) * math.sqrt(1.25 / 3))
    assert (found.chunks, found.tokens) == (2, 4)


def test_a_model_does_not_differ_from_itself(model: LlamaModel) -> None:
    chunks = chunked(model, TEXT, 64)[:2]
    with (
        perplexity_context(model, SETTINGS, 64, 128) as one,
        perplexity_context(model, SETTINGS, 64, 128) as other,
    ):
        found = summarise_divergence(text_divergence(one, other, chunks), len(chunks))
    assert found.kld.value == pytest.approx(0.0, abs=1e-6)
    assert found.same_top.value == 1.0
    assert found.log_ratio.value == 0.0
    assert found.delta_p_rms.value == 0.0
    assert found.correlation == pytest.approx(1.0)
    assert found.tokens == 2 * 31


def test_a_text_is_read_without_its_last_line_break(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("a\nb\n\n")
    assert read_corpus(path) == "a\nb\n"
    with pytest.raises(UsageError, match="no such text"):
        read_corpus(tmp_path / "absent.txt")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="can't be read"):
        read_corpus(path)


def test_ends_of_lines_are_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\r\ntwo\n\n")
    assert read_corpus(path) == "one\r\ntwo\n"


def test_likelihoods_that_are_no_numbers_are_an_error(
    tmp_path: Path, demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such weights are refused when a file is opened; another computation can overflow still.
    monkeypatch.setattr("tuneserve.llama.model.check_loadable", lambda *_, **__: None)
    norm = {"output_norm.weight": np.full(64, np.nan, np.float32)}
    path = write_tiny(tmp_path / "tiny.gguf", GGUFFile(demo_gguf), tensors=norm)
    settings = SETTINGS.model_copy(update={"cache_type_k": "f16", "cache_type_v": "f16"})
    with (
        LlamaModel(path) as model,
        perplexity_context(model, settings, 64, 64) as context,
        pytest.raises(TuneserveError, match="62 of 62 log-likelihoods that the model gives"),
    ):
        text_nll(context, np.arange(3, 131).reshape(2, 64))
