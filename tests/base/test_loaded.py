"""A checkpoint that lacks weights is not loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneserve.base.loaded import all_weights_read
from tuneserve.errors import UsageError

LACKING = "model.layers.1.self_attn.q_proj.weight"


def make_checkpoint(target: Path, *, tied: bool, without: str = "") -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    weights = {name: value for name, value in model.state_dict().items() if name != without}
    model.save_pretrained(target, state_dict=weights)
    return target


def load(path: Path) -> None:
    from transformers import AutoModelForCausalLM, PreTrainedModel

    former = PreTrainedModel.__dict__["from_pretrained"]
    try:
        with all_weights_read(path):
            model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
            assert model.config.num_hidden_layers == 2
    finally:
        assert PreTrainedModel.__dict__["from_pretrained"] is former


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_checkpoint_is_loaded(tmp_path: Path, tied: bool) -> None:
    load(make_checkpoint(tmp_path / "whole", tied=tied))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "lacking", tied=True, without=LACKING)
    with pytest.raises(UsageError, match="1 weights of this model") as caught:
        load(path)
    assert caught.value.problems == [LACKING]
