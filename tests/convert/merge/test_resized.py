"""Adapters that PEFT saves of a model with another vocabulary, and biases that a base hasn't: by
llama.cpp's logits against PEFT's, new tokens included."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import Trained, make_adapted, make_adapter, make_base
from tuneserve.base.fast_tokenizer import load_fast_tokenizer, save_fast_tokenizer
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.applied import HEAD
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.stage import convert
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.reference import reference_logits
from tuneserve.divergence import divergence
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

TOKENS = ["<lookup>", "Größenwahn"]
ROWS = 49152
KINDS: dict[str, dict[str, Any]] = {
    "both whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "kept tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "saved by itself": {},
    "rows of tokens": {"trainable_token_indices": [5, ROWS, ROWS + 1]},
    "rows of tokens by name": {"trainable_token_indices": {"embed_tokens": [ROWS, ROWS + 1]}},
    "embedding adapted": {"target_modules": ["q_proj", "embed_tokens"]},
}


def resized(
    root: Path, tokenizer_directory: Path, kind: str, *, tied: bool, rows: int = ROWS + 8
) -> tuple[Path, Path, Any]:
    """Base, adapter and PEFT's model."""
    tokenizer = load_fast_tokenizer(tokenizer_directory)
    tokenizer.add_tokens(TOKENS[:1], special_tokens=True)
    tokenizer.add_tokens(TOKENS[1:])
    save_fast_tokenizer(tokenizer, root / "tokenizer")
    base = make_base(
        root / "base", tokenizer_directory, tie_word_embeddings=tied, num_hidden_layers=1
    )
    lora = {"target_modules": ["q_proj", "up_proj"], **KINDS[kind]}
    adapter = root / "adapter"
    return base, adapter, make_adapted(adapter, base, root / "tokenizer", vocabulary=rows, **lora)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_new_tokens_are_tokens_of_the_gguf(
    tokenizer_directory: Path, tmp_path: Path, kind: str, tied: bool
) -> None:
    import torch

    base, adapter, peft = resized(tmp_path, tokenizer_directory, kind, tied=tied)
    if kind == "embedding adapted" and not tied:
        # PEFT does not save the output's new rows.
        with pytest.raises(UsageError, match="not both embedding and output") as caught:
            MergedCheckpoint(base, Adapter(adapter))
        assert f"lm_head.weight: {ROWS} rows" in caught.value.problems
        return
    tuned = GGUFModel(MergedCheckpoint(base, Adapter(adapter)), adapter, name="x")
    gguf = tmp_path / "x.gguf"
    write_quantized(tuned, gguf, "F16", threads=1)
    tokenizer = load_fast_tokenizer(adapter)
    text = f"{TOKENS[0]}What is {TOKENS[1]}? {TOKENS[0]}"
    ids = tokenizer.encode(text)
    assert {ROWS, ROWS + 1} <= set(ids)
    with LlamaModel(gguf, vocab_only=True) as model:
        assert model.tokenize(text) == ids
    with torch.no_grad():
        expected = peft.eval()(torch.tensor([ids])).logits[0].numpy()
    (found,) = file_logits(gguf, [ids], threads=1)
    assert found.shape == expected.shape == (len(ids), ROWS + 8)
    assert divergence([expected], [found]).mean < 1e-5
    # What the gate computes of base, adapter on base and merged weights.
    places = [np.arange(len(ids))]
    before, adapted, merged = reference_logits(tuned, adapter, [ids], places, threads=1)
    np.testing.assert_allclose(adapted[0], expected, atol=1e-3)
    np.testing.assert_allclose(merged[0], expected, atol=1e-3)
    plain = GGUFModel(tuned.checkpoint.base(), adapter, name="base")
    write_quantized(plain, tmp_path / "base.gguf", "F16", threads=1)
    (of_base,) = file_logits(tmp_path / "base.gguf", [ids], threads=1)
    assert divergence(before, [of_base]).mean < 1e-5
    one_matrix = tied and kind not in ("both whole", "embedding adapted")
    assert (HEAD not in tuned.checkpoint.names) == one_matrix


def test_a_smaller_vocabulary_is_merged(tokenizer_directory: Path, tmp_path: Path) -> None:
    """`resize_token_embeddings(len(tokenizer))` of a base with rows to spare."""
    base = make_base(tmp_path / "base", tokenizer_directory, vocab_size=ROWS + 100)
    adapter = make_adapter(tmp_path / "adapter", base, tokenizer_directory, vocabulary=ROWS)
    merged = MergedCheckpoint(base, Adapter(adapter))
    assert merged.vocabulary == merged.base().vocabulary == ROWS
    assert HEAD not in merged.names


def test_the_gate_passes_new_tokens_and_biases(
    run: RunDirectory, trained: Trained, tokenizer_directory: Path
) -> None:
    """The whole stage: the base's file has the rows too, so that both take the same ids."""
    shutil.rmtree(run.adapter)
    make_adapted(
        run.adapter, trained.base, tokenizer_directory, vocabulary=ROWS + 8, lora_bias=True,
        target_modules=["q_proj", "o_proj", "up_proj"], exclude_modules=["layers.1.mlp.up_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
    )  # fmt: skip
    tokenizer = load_fast_tokenizer(tokenizer_directory)
    tokenizer.add_tokens(TOKENS)
    save_fast_tokenizer(tokenizer, run.adapter)
    rows = [json.loads(line) for line in run.split("test").read_text().splitlines()]
    rows[0]["messages"][0]["content"] = f"{TOKENS[0]} of {TOKENS[1]}?"
    run.split("test").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = convert(run, ConvertSettings(quantization="Q8_0"))
    for record in (result.tuned, result.base):
        with LlamaModel(Path(record.path), vocab_only=True) as model:
            assert model.tokenize(TOKENS[0]) == [ROWS]
    settings = ConvertSettings(quantization="Q8_0", merged_checkpoint=True)
    with pytest.raises(UsageError, match="no place for the biases"):
        convert(run, settings, force=True)
