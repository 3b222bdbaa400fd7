from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.chat.examples import Example
from tuneserve.finetune.preview import length_histogram, pieces
from tuneserve.finetune.tokens.encoder import Encoder


def test_pieces_are_the_text_with_trained_and_special_tokens_apart(demo_tokenizer: Any) -> None:
    encoder = Encoder(demo_tokenizer, max_length=512)
    messages = (
        {"role": "system", "content": "S"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "Two."},
    )
    encoded = encoder.encode(Example("x", messages))
    found = pieces(demo_tokenizer, encoder.special_ids, encoded)
    assert "".join(piece.text for piece in found) == demo_tokenizer.decode(encoded.input_ids)
    assert [(p.text, p.kind) for p in found if p.trained] == [
        ("Two.", "trained"), ("<|im_end|>", "special"),
    ]  # fmt: skip
    assert [p.text for p in found if p.kind == "special"][:2] == ["<|im_start|>", "<|im_end|>"]


@given(st.lists(st.integers(1, 5000), max_size=60))
def test_the_histogram_counts_every_length_once(lengths: list[int]) -> None:
    rows = length_histogram(lengths)
    assert sum(count for _, _, count in rows) == len(lengths)
    assert len(rows) <= 13
    for low, high, count in rows:
        assert count == sum(low <= length < high for length in lengths)


@pytest.mark.slow
def test_preview_shows_examples_and_figures_and_refuses_what_training_would(
    tuneserve: Callable[..., Any], write_lines: Any
) -> None:
    rows = [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(30)]
    path = write_lines(*rows)
    good = tuneserve("preview", "--file", str(path), "-n", "1", "--json")
    assert good.returncode == 0, good.stderr
    assert "«It is" in good.stderr
    assert "<|im_end|>»" in good.stderr
    counts = json.loads(good.stdout)["counts"]
    assert sum(part["examples"] for part in counts.values()) == 30
    assert counts["train"]["trained_per_example"]["min"] >= 4

    path = write_lines(*rows, {"instruction": "word " * 100, "output": "too long"})
    bad = tuneserve("preview", "--file", str(path), "--max-seq-length", "64")
    assert bad.returncode == 2
    assert f"{path}:31: no token to train on" in bad.stderr
    assert "Traceback" not in bad.stderr
    skipping = tuneserve("preview", "--file", str(path), "--max-seq-length", "64", "--skip-bad",
                         "-n", "0", "--json")  # fmt: skip
    assert skipping.returncode == 0, skipping.stderr
    told = json.loads(skipping.stdout)
    assert (told["unusable"], told["problems"]) == (1, [])
    assert sum(part["examples"] for part in told["counts"].values()) == 30
