"""A figure that is no number, and whose it is."""

from __future__ import annotations

import math

import pytest
import torch

from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.training.losses import no_number, places_of

EXAMPLES = [
    Encoded(ids, ids, len(ids), 0, where=f"mine.jsonl:{line}")
    for line, ids in enumerate(([1, 2, 3], [4, 5], [11, 2, 3], [4, 5, 6]), start=1)
]


@pytest.mark.parametrize(
    ("batch", "lines"),
    [
        ([[1, 2, 3], [0, 4, 5]], [1, 2]),  # padded on the left
        ([[1, 2, 3], [4, 5, 0]], [1, 2]),  # padded on the right
        ([[11, 2, 3, 4, 5]], [2, 3]),  # end to end in one row
        ([[7, 8, 9]], []),
    ],
)
def test_the_examples_of_a_batch_are_found_by_their_tokens(
    batch: list[list[int]], lines: list[int]
) -> None:
    found = places_of([torch.tensor(batch)], EXAMPLES)
    assert found == [f"mine.jsonl:{line}" for line in lines]


def test_the_error_names_step_figure_and_examples() -> None:
    told = no_number("the loss", math.nan, 7, ["mine.jsonl:3", "mine.jsonl:9"]).render()
    assert told.startswith(
        "step 7: the loss is no finite number (nan); its examples:\n"
        "  mine.jsonl:3\n  mine.jsonl:9\n"
    )
    assert "base" not in told
    at_start = no_number("the eval loss", math.inf, 0, []).render()
    assert at_start.startswith("step 0: the eval loss is no finite number (inf)\n")
    assert "The base may not work as it is loaded here" in at_start
