"""The text model in a checkpoint that holds more."""

from __future__ import annotations

import pytest

from tuneserve.text_model import is_shell, part_name, text_config, text_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("language_model.model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"),
        ("model.vision_tower.encoder.layers.0.mlp.fc1.weight", None),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", None),
        ("model.visual.blocks.0.attn.qkv.weight", None),
        ("multi_modal_projector.mm_soft_emb_norm.weight", None),
    ],
)
def test_names_of_the_text_model(name: str, expected: str | None) -> None:
    assert text_name(name) == expected


def test_what_is_left_out_is_named_by_its_part() -> None:
    assert part_name("model.vision_tower.encoder.layers.0.mlp.fc1.weight") == "vision_tower"
    assert part_name("multi_modal_projector.norm.weight") == "multi_modal_projector"


def test_the_config_of_the_text_model() -> None:
    whole = {
        "architectures": ["Gemma3ForConditionalGeneration"], "tie_word_embeddings": False,
        "text_config": {"hidden_size": 8, "tie_word_embeddings": True}, "vision_config": {},
    }  # fmt: skip
    assert is_shell(whole)
    found = text_config(whole)
    assert found["hidden_size"] == 8
    assert found["tie_word_embeddings"] is False
    assert found["architectures"] == ["Gemma3ForConditionalGeneration"]
    plain = {"hidden_size": 8}
    assert not is_shell(plain)
    assert text_config(plain) == plain
