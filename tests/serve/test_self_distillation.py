"""General examples: what the base itself says, by the engine as by torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuneserve.base import resolve_base
from tuneserve.finetune.runtime.model import load_tokenizer
from tuneserve.finetune.self_distillation import (
    ReplayPrompt,
    Sampling,
    answers_by_torch,
    encode_prompts,
    replay_example,
)
from tuneserve.finetune.tokens.encoder import Encoder
from tuneserve.serve.self_distillation import _write_base, answers_by_engine
from tuneserve.settings import ModelSettings

pytestmark = pytest.mark.slow

QUESTIONS = [
    ReplayPrompt("facts", "What is the capital of France?"),
    ReplayPrompt("words", "Give me a word that rhymes with cat."),
    ReplayPrompt("sums", "What is two plus two?"),
]
# So cold that the likeliest token is drawn each time, without being the greedy code path.
COLD = Sampling(max_tokens=12, temperature=0.001)


@pytest.fixture(scope="module")
def encoder(demo_base: Path) -> Encoder:
    return Encoder(load_tokenizer(demo_base, ModelSettings()), max_length=1 << 30)


def test_the_engine_says_what_torch_says(demo_base: Path, encoder: Encoder, tmp_path: Path) -> None:
    asked = encode_prompts(encoder, QUESTIONS, 1)
    counts: list[int] = []
    base = _write_base(resolve_base("demo"), tmp_path)
    by_engine = answers_by_engine(base, asked, COLD, counts.append)
    assert sum(counts) == len(asked)
    by_torch = answers_by_torch(demo_base, ModelSettings(), encoder, asked, COLD, counts.append)
    assert by_engine == by_torch
    assert any(answer is not None for answer in by_engine)


def test_an_example_has_the_answer_and_not_the_template(encoder: Encoder) -> None:
    asked = encode_prompts(encoder, QUESTIONS, 2)
    assert len(asked) == 2 * len(QUESTIONS)
    assert [len(one.prompt) for one in asked] == sorted(len(one.prompt) for one in asked)
    ids = encoder.tokenizer(" Paris.\n")["input_ids"]
    assert replay_example(encoder, asked[0], ids) == {
        "group": asked[0].source.group,
        "instruction": asked[0].source.text,
        "output": "Paris.",
    }
    assert replay_example(encoder, asked[0], []) is None
    assert (
        replay_example(encoder, asked[0], encoder.tokenizer("<think>so</think>")["input_ids"])
        is None
    )


def test_the_command_writes_examples_that_training_reads(
    tuneserve: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("# sums\nWhat is two plus two?\nWhat is three plus four?\n")
    command = (
        "data", "general", "--questions", "mine.txt", "--samples", "6", "--max-tokens", "160",
        "--json",
    )  # fmt: skip
    first = tuneserve(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told["asked"] == 12
    rows = [json.loads(line) for line in Path(tmp_path / told["file"]).read_text().splitlines()]
    assert len(rows) == told["examples"] > 0
    assert all(set(row) == {"group", "instruction", "output"} for row in rows)
    # Drawn, so the same question has several answers; and drawn alike with the same seed.
    assert len({row["output"] for row in rows}) > 2
    again = tuneserve(*command, "--force", cwd=tmp_path)
    assert json.loads(again.stdout)["sha256"] == told["sha256"]


def test_answers_that_never_end_are_an_error_that_says_what_to_do(
    tuneserve: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("Tell me a long story about the sea.\n")
    done = tuneserve(
        "data", "general", "--questions", "mine.txt", "--max-tokens", "8", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "--max-tokens" in done.stderr
    assert not (tmp_path / "data").exists()
