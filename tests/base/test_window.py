"""The default of max_seq_length follows the base; what somebody set stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

from tuneserve.base.window import longest_text, require_within_window, within_window
from tuneserve.errors import UsageError
from tuneserve.settings import Recipe

PHI3 = {"model_type": "phi3", "max_position_embeddings": 4096, "sliding_window": 2047}


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (PHI3, 2047),
        ({**PHI3, "sliding_window": None}, 4096),
        ({**PHI3, "model_type": "gemma2"}, 4096),  # llama.cpp computes its window
        ({"model_type": "llama", "max_position_embeddings": 1024}, 1024),
        ({"text_config": {"model_type": "llama", "max_position_embeddings": 512}}, 512),
        ({"model_type": "llama"}, None),
        ({**PHI3, "sliding_window": "16"}, 4096),  # refused elsewhere
        ({"model_type": "llama", "max_position_embeddings": "1024"}, None),
    ],
)
def test_the_longest_text(config: dict[str, Any], longest: int | None) -> None:
    assert longest_text(config) == longest


def test_a_default_follows_the_base_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = within_window(Recipe(), PHI3)
    assert found.model.max_seq_length == 2047
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "max_seq_length: 2,047" in told
    assert within_window(found, PHI3) == found
    assert within_window(Recipe(), {**PHI3, "sliding_window": None}) == Recipe()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("length", [2048, 2047, 64])
def test_a_length_that_was_set_stays(length: int, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.model_validate({"model": {"max_seq_length": length}})
    assert within_window(recipe, PHI3) == recipe
    assert capsys.readouterr().err == ""


def test_a_length_that_a_training_refuses_is_refused_before() -> None:
    for length in (64, 2047):
        recipe = Recipe.model_validate({"model": {"max_seq_length": length}})
        require_within_window(recipe, PHI3, "there")
    recipe = Recipe.model_validate({"model": {"max_seq_length": 2048}})
    with pytest.raises(UsageError, match=r"2,048, and this base is made for 2,047 tokens"):
        require_within_window(recipe, PHI3, "there")
    require_within_window(recipe, {"model_type": "llama"}, "there")
