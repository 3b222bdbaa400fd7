from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.finetune.preview import length_histogram


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
    told = json.loads(good.stdout)
    counts = told["counts"]
    (example,) = told["shown"]
    assert "".join(one["text"] for one in example["pieces"] if one["trained"]).startswith("It is")
    assert sum(one["tokens"] for one in example["pieces"]) == example["tokens"]
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
    (reason,) = told["refused"]
    assert reason.startswith(f"{path}:31: no token to train on")
    assert sum(part["examples"] for part in told["counts"].values()) == 30
