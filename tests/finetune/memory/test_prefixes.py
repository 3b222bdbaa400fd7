"""When shared beginnings are computed once: what is decided, and what is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3NextConfig,
)

from tuneserve.errors import UsageError
from tuneserve.finetune.memory.budget import plan_budget
from tuneserve.finetune.memory.prefixes import obstacle, obstacle_on_gpu, plan_sharing
from tuneserve.finetune.memory.schedule import Schedule
from tuneserve.finetune.runtime.libraries import Runtime
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded
from tuneserve.finetune.tokens.epoch import EpochSampler, Stream, TrainingSet
from tuneserve.settings import Recipe, TrainSettings

CPU = Runtime(None, torch, "cpu", "fp32")
LLAMA = LlamaConfig(
    vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip


DYNAMIC: dict[str, Any] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


def example(ids: Sequence[int]) -> Encoded:
    return Encoded(list(ids), [IGNORED] * (len(ids) - 2) + list(ids[-2:]), len(ids), 0)


def training_set(examples: Sequence[Encoded]) -> TrainingSet:
    stream = Stream(tuple((place,) for place in range(len(examples))), len(examples))
    return TrainingSet(list(examples), EpochSampler([stream], 1), 0, 0, 0)


PROMPT = list(range(10, 60))
ALIKE = training_set([example([*PROMPT, n, n + 1, n + 2, 3]) for n in range(40)])
APART = training_set([example(range(n, n + 54)) for n in range(0, 4000, 100)])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    LLAMA.save_pretrained(tmp_path)
    return tmp_path


def planned(checkpoint: Path, data: TrainingSet, runtime: Runtime = CPU, **given: Any) -> Any:
    settings = TrainSettings.model_validate({"batch_size": 8, **given})
    config = json.loads((checkpoint / "config.json").read_text())
    return plan_sharing(settings, runtime, config, data)


def test_it_is_done_where_it_saves_enough(checkpoint: Path) -> None:
    sharing, told = planned(checkpoint, ALIKE)
    assert sharing is not None
    assert told.endswith("% less to compute")
    assert planned(checkpoint, APART) == (None, "")
    assert planned(checkpoint, APART, prefix_sharing=True)[0] is not None
    assert planned(checkpoint, ALIKE, prefix_sharing=False) == (None, "")
    bf16 = Runtime(None, torch, "cpu", "bf16")
    assert planned(checkpoint, ALIKE, bf16) == (None, "")
    assert planned(checkpoint, ALIKE, bf16, prefix_sharing=True)[0] is not None


def test_what_it_would_change_is_said_or_refused(checkpoint: Path) -> None:
    sharing, told = planned(checkpoint, ALIKE, dropout=0.1)
    assert sharing is None
    assert "draw their noise for each example anew" in told
    assert planned(checkpoint, APART, dropout=0.1) == (None, "")
    with pytest.raises(UsageError, match="draw their noise") as caught:
        planned(checkpoint, ALIKE, neftune_alpha=5.0, prefix_sharing=True)
    assert caught.value.where == "train.prefix_sharing"


def test_on_a_gpu_it_is_for_architectures_whose_attention_takes_a_tree(checkpoint: Path) -> None:
    gpu = Runtime(None, torch, "cuda", "bf16")
    sharing, told = planned(checkpoint, ALIKE, gpu)
    assert sharing is not None
    assert (sharing.costs.unit, sharing.costs.padding_free) == (128, True)
    # All examples of a step are computed at a time: 50 + 8 x 3 tokens, filled up to 128.
    assert told.endswith("once: 70 % less to compute")
    assert planned(checkpoint, ALIKE, Runtime(None, torch, "cuda", "fp16")) == (None, "")
    for config, reason in (
        (LLAMA, None),
        (LlamaConfig(rope_parameters=DYNAMIC), "dynamic RoPE depends on how long a row is"),
        (Gemma2Config(), "takes none for gemma2"),
        (Gemma3TextConfig(), "takes none for gemma3_text"),
    ):
        found = obstacle_on_gpu(config)
        assert (found is None) if reason is None else (found is not None and reason in found)


@pytest.mark.parametrize(
    ("config", "longest", "reason"),
    [
        (LLAMA, 10**6, None),
        (GPT2Config(), 10, "trains with dropout (attn_pdrop)"),
        (GPT2Config(attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0), 10, None),
        (MistralConfig(sliding_window=64), 65, "sees 64 tokens, and examples have up to 65"),
        (MistralConfig(sliding_window=64), 64, None),
        (MistralConfig(sliding_window=None), 65, None),
        (Qwen3NextConfig(num_hidden_layers=4), 10, "no attention (linear_attention)"),
    ],
)
def test_what_speaks_against_it(config: Any, longest: int, reason: str | None) -> None:
    found = obstacle(config, TrainSettings(), longest)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_qwen_without_its_window_has_none(tmp_path: Path) -> None:
    given = {"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False}
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert obstacle(AutoConfig.from_pretrained(tmp_path), TrainSettings(), 64) is None


def test_the_plan_is_that_of_the_rows(checkpoint: Path) -> None:
    recipe = Recipe(train=TrainSettings(batch_size=8, gradient_checkpointing="false"))
    sharing, _ = planned(checkpoint, ALIKE)
    schedule = Schedule(5, 0, 0)
    plain = plan_budget(recipe, CPU, checkpoint, ALIKE.encoded, schedule)
    shared = plan_budget(recipe, CPU, checkpoint, ALIKE.encoded, schedule, sharing)
    assert plain.predicted is not None
    assert shared.predicted is not None
    assert shared.predicted < plain.predicted


def test_questions_about_one_document_are_gathered(checkpoint: Path) -> None:
    documents = [[1000 * number + n for n in range(40)] for number in range(30)]
    examples = [example([*d, 7, q, 3, 4]) for d in documents for q in range(4)]
    sharing, told = planned(checkpoint, training_set(examples))
    assert sharing is not None
    assert len(sharing.families) == 30
    assert told.endswith("examples that share most meet")
    assert not planned(checkpoint, ALIKE)[0].families
