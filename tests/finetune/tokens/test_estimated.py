"""Lengths of examples where there is no tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneserve.chat.examples import Example
from tuneserve.finetune.data.prepare import prepare_examples
from tuneserve.finetune.tokens.estimated import estimate_all, estimate_parts, estimated_tokens
from tuneserve.settings import DataSettings


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("The quick brown fox jumps over the lazy dog. " * 10, 100, 120),
        ("Über die Straße, naïve café " * 10, 60, 80),  # Latin letters with marks
        ("今天天气很好我们一起去公园散步吧" * 10, 110, 130),
        ("сегодня хорошая погода " * 10, 80, 100),
    ],
)
def test_characters_a_token_depend_on_the_script(text: str, least: float, most: float) -> None:
    assert least <= estimated_tokens(text) <= most


def test_every_part_is_estimated_and_nothing_is_longer_than_allowed(tmp_path: Path) -> None:
    rows: list[dict[str, str]] = [
        {"instruction": f"Question {n}: " + "why " * n, "output": "because"} for n in range(1, 81)
    ]
    rows += [{"text": f"{n} " + "word " * 1000} for n in range(4)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = DataSettings(file=tmp_path / "d.jsonl", near_duplicates=1.0)
    prepared = prepare_examples(settings)
    texts = sum(not example.prompt for example in prepared.split.train)
    questions = len(prepared.split.train) - texts
    found = estimate_parts(prepared, max_length=64)
    assert {name: len(part) for name, part in found.items()} == prepared.split.counts()
    assert max(len(item.input_ids) for part in found.values() for item in part) == 64
    # A text of 5,000 characters, 1,250 tokens, becomes pieces of 64.
    assert len(found["train"]) == questions + 20 * texts
    cut = [item for item in found["train"] if item.truncated]
    assert cut
    assert all(item.trained for item in found["train"])


def test_an_example_that_stays_one_is_cut() -> None:
    text = Example("a", ({"role": "assistant", "content": "word " * 1000},))
    (found,) = estimate_all([text], max_length=64)
    assert len(found.input_ids) == found.trained == 64
