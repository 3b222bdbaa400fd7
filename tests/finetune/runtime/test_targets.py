"""Which modules settings may name: the same for `plan` and `train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import write_small_weights
from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.targets import with_targets
from tuneserve.settings import ALL_PROJECTIONS, TrainSettings

FUSED = {"self_attn.qkv_proj": (8, 4), "self_attn.o_proj": (4, 4), "conv": (4, 1, 3)}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_small_weights(tmp_path / "model.safetensors")
    return tmp_path


def targets(base: Path, *names: str, saved: tuple[str, ...] = ()) -> tuple[str, ...]:
    settings = TrainSettings(target_modules=names, modules_to_save=saved)
    return with_targets(base, settings).target_modules


def test_names_of_linear_layers_stay_as_they_are(base: Path) -> None:
    assert targets(base, *ALL_PROJECTIONS) == ALL_PROJECTIONS
    assert targets(base, "self_attn.q_proj", "layers.1.mlp.up_proj", "self_attn.q_proj") == (
        "self_attn.q_proj", "layers.1.mlp.up_proj",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["all-linear", "All-Linear"])
def test_all_linear_is_every_linear_layer_but_the_output(base: Path, name: str) -> None:
    assert set(targets(base, name)) == set(ALL_PROJECTIONS)
    write_small_weights(base / "model.safetensors", FUSED)
    assert targets(base, name) == ("qkv_proj", "o_proj")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("q_prol", "this base model has no module 'q_prol'", "Did you mean 'q_proj'?"),
        ("all", "this base model has no module 'all'", "Did you mean 'all-linear'?"),
        (".*_proj", "this base model has no module '.*_proj'", "Linear layers here: q_proj"),
        ("proj", "this base model has no module 'proj'", "'all-linear' means them all"),
        ("weight", "this base model has no module 'weight'", "Linear layers here"),
        ("mlp", "'mlp' is no linear layer itself", "Name the layers in it: 'gate_proj', 'up_proj'"),
        ("layers.0", "'layers.0' is no linear layer itself", "Name the layers in it: 'q_proj'"),
        ("input_layernorm", "'input_layernorm' is no linear layer", "Linear layers here: q_proj"),
        ("embed_tokens", "'embed_tokens' can't have an adapter", 'modules_to_save = ["embed_tok'),
        ("model.lm_head", "'model.lm_head' can't have an adapter", "or train the whole table"),
    ],
)
def test_other_names_are_refused(base: Path, name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets(base, "q_proj", name)
    assert caught.value.where == "train.target_modules"
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_embeddings_the_output_and_norms_can_be_trained_whole(base: Path) -> None:
    saved = ("embed_tokens", "lm_head", "input_layernorm", "norm", "layernorm")
    assert targets(base, "q_proj", saved=saved) == ("q_proj",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "this base model has no module 'nonsense'"),
        ("mlp", "'mlp' can't be trained whole"),
        ("q_proj", "'q_proj' can't be trained whole"),
        ("layers.0", "'layers.0' can't be trained whole"),
        ("all-linear", "this base model has no module 'all-linear'"),
    ],
)
def test_what_can_not_be_trained_whole(base: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        targets(base, "q_proj", saved=("embed_tokens", name))
    assert caught.value.where == "train.modules_to_save"
    assert "norms (norm, input_layernorm, post_attention_layernorm)" in caught.value.hint


EXPERTS: dict[str, dict[str, tuple[int, ...]]] = {
    "matrices of each": {
        "mlp.experts.0.gate_proj": (4, 4), "mlp.experts.0.up_proj": (4, 4),
        "mlp.experts.0.down_proj": (4, 4),
    },
    "of Mixtral": {
        "block_sparse_moe.experts.0.w1": (4, 4), "block_sparse_moe.experts.0.w2": (4, 4),
        "block_sparse_moe.experts.0.w3": (4, 4),
    },
    "of Granite": {
        "block_sparse_moe.input_linear": (2, 8, 4), "block_sparse_moe.output_linear": (2, 4, 4),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_have_the_names_of_their_parameters(base: Path, kind: str) -> None:
    layer = {"self_attn.q_proj": (4, 4), "mlp.gate": (2, 4), **EXPERTS[kind]}
    write_small_weights(base / "model.safetensors", layer)
    assert targets(base, "all-linear") == ("q_proj", "gate_up_proj", "down_proj")
    for names in (("gate_proj", "up_proj", "down_proj"), ("gate_up_proj",)):
        assert targets(base, *names) == names
    for router in ("gate", "mlp.gate"):
        with pytest.raises(UsageError, match=f"'{router}' is no linear layer"):
            targets(base, "q_proj", router)
    refused = TrainSettings(target_modules=("q_proj", "down_proj"), dropout=0.1)
    with pytest.raises(UsageError, match="experts can't be trained with dropout") as caught:
        with_targets(base, refused)
    assert caught.value.where == "train.dropout"
