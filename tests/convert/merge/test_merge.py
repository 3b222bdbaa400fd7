"""The merge against PEFT's own, and adapters that don't fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import Trained, make_adapter, make_base
from tuneserve.convert.merge.adapter import Adapter, scale_of
from tuneserve.convert.merge.applied import EMBEDDING, HEAD
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.errors import UsageError
from tuneserve.safetensors import checkpoint_tensors

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}},
    "some-layers": {"layers_to_transform": [0, 2]},
    "whole-tensors": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "one-matrix": {"target_modules": ["embed_tokens", "v_proj"], "ensure_weight_tying": True},
    "exclude": {"exclude_modules": r".*layers\.1\.mlp\..*"},
    "exclude-listed": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 300]},
    "bias": {"target_modules": ["q_proj", "o_proj"], "lora_bias": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_equals_the_adapted_model(
    tokenizer_directory: Path, tmp_path: Path, kind: str, tied: bool
) -> None:
    """What PEFT computes with the adapter on the base, the merged weights compute without it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_base(
        tmp_path / "base", tokenizer_directory, tie_word_embeddings=tied, vocab_size=512,
        attention_bias=kind == "bias",
    )  # fmt: skip
    adapter = make_adapter(tmp_path / "adapter", base, tokenizer_directory, **KINDS[kind])
    merged = MergedCheckpoint(base, Adapter(adapter))

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, adapter).eval()
    ids = torch.tensor([[5, 17, 300, 4, 99, 230, 1]])
    with torch.no_grad():
        expected = adapted(ids).logits.numpy()
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        assert np.abs(plain(ids).logits.numpy() - expected).max() > 1e-2
        if HEAD in merged.names:
            plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.detach().clone())
        for name, parameter in plain.named_parameters():
            parameter.copy_(torch.from_numpy(merged.rows(name)))
        found = plain(ids).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-4)

    if tied and kind in ("embedding", "head", "one-matrix"):
        return  # PEFT's merge changes embedding and output at once there, or one matrix twice
    weights = adapted.merge_and_unload().state_dict()
    for name in merged.names:
        theirs = weights[name if name in weights else EMBEDDING].numpy()
        np.testing.assert_allclose(merged.rows(name), theirs, atol=1e-5, rtol=1e-5, err_msg=name)


def test_rows_are_rows_of_the_whole(trained: Trained) -> None:
    merged = trained.merged()
    for name in merged.names:
        whole = merged.rows(name)
        assert whole.shape == merged.shape(name)
        np.testing.assert_array_equal(merged.rows(name, 3, 11), whole[3:11])


def test_tied_embedding_is_untied_only_where_needed(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path
) -> None:
    assert HEAD not in trained.merged().names
    adapter = make_adapter(
        tmp_path / "a", trained.base, tokenizer_directory, target_modules=["embed_tokens"]
    )
    merged = MergedCheckpoint(trained.base, Adapter(adapter))
    assert HEAD in merged.names
    plain = MergedCheckpoint(trained.base)
    np.testing.assert_array_equal(merged.rows(HEAD, 0, 50), plain.rows(EMBEDDING, 0, 50))
    assert np.abs(merged.rows(EMBEDDING, 0, 50) - plain.rows(EMBEDDING, 0, 50)).max() > 1e-3


def test_bfloat16_shards_are_read_exactly(tokenizer_directory: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    base = make_base(tmp_path / "base", tokenizer_directory, dtype=torch.bfloat16, vocab_size=512)
    files = checkpoint_tensors(base)
    for name, tensor in load_file(base / "model.safetensors").items():
        np.testing.assert_array_equal(files[name].rows(), tensor.float().numpy())


def test_a_foreign_adapter_is_refused_with_every_mismatch(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path
) -> None:
    other = make_base(
        tmp_path / "other", tokenizer_directory, hidden_size=32, num_hidden_layers=4, vocab_size=512
    )
    adapter = make_adapter(tmp_path / "a", other, tokenizer_directory)
    with pytest.raises(UsageError, match="does not belong to the base") as caught:
        MergedCheckpoint(trained.base, Adapter(adapter))
    problems = "\n".join(caught.value.problems)
    assert "layers.3.self_attn.q_proj.weight: the base has no such weight" in problems
    assert (
        "layers.0.self_attn.q_proj.weight: the base has [64, 64], the adapter [32, 32]" in problems
    )
    assert len(caught.value.problems) == 28


def damaged(adapter: Path, target: Path, drop: str) -> Path:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(adapter, target)
    tensors = load_file(target / "adapter_model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if drop not in k}, target / "adapter_model.safetensors"
    )
    return target


def test_a_missing_factor_is_named(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="damaged") as caught:
        Adapter(damaged(trained.adapter, tmp_path / "a", "layers.1.self_attn.k_proj.lora_B"))
    assert "only one of lora_A and lora_B" in caught.value.problems[0]


def test_a_layer_without_adapter_is_named(trained: Trained, tmp_path: Path) -> None:
    adapter = Adapter(damaged(trained.adapter, tmp_path / "a", "layers.1.mlp.up_proj"))
    with pytest.raises(UsageError, match="damaged") as caught:
        MergedCheckpoint(trained.base, adapter)
    assert caught.value.problems == [
        "model.layers.1.mlp.up_proj: no adapter, other layers have one"
    ]


@pytest.mark.parametrize(
    ("given", "drop", "count"),
    [
        ({}, "layers.0.", 7),
        ({"layers_to_transform": [1, 2]}, "layers.1.", 7),
        ({"layers_to_transform": [1, 2]}, "layers.2.mlp.up_proj", 1),
        ({"layers_to_transform": [1, 2]}, "layers.0.", 0),
        ({"layers_to_transform": 2}, "layers.2.mlp.up_proj", 0),
    ],
)
def test_a_layer_that_lost_its_adapter_is_named(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path, given: dict[str, Any], drop: str,
    count: int,
) -> None:  # fmt: skip
    """Of the layers that the configuration names, or of all up to the last one with an adapter."""
    make_adapter(tmp_path / "whole", trained.base, tokenizer_directory, **given)
    adapter = Adapter(damaged(tmp_path / "whole", tmp_path / "a", drop))
    if not count:
        MergedCheckpoint(trained.base, adapter)
        return
    with pytest.raises(UsageError, match="damaged") as caught:
        MergedCheckpoint(trained.base, adapter)
    assert len(caught.value.problems) == count
    assert all(drop.rstrip(".") in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights = 'corda'"),
        ({"lora_alpha": None}, "lora_alpha is no positive number"),
        ({"r": 0}, "r is no positive number"),
    ],
)
def test_other_kinds_are_refused(
    trained: Trained, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    target = tmp_path / "a"
    shutil.copytree(trained.adapter, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match=message):
        Adapter(target)


def test_truncated_weights_are_one_clear_error(trained: Trained, tmp_path: Path) -> None:
    target = tmp_path / "a"
    shutil.copytree(trained.adapter, target)
    path = target / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="truncated or damaged"):
        Adapter(target)


def test_rank_that_contradicts_the_configuration() -> None:
    with pytest.raises(UsageError, match="rank is 4, but the configuration says 8"):
        scale_of({"r": 8, "lora_alpha": 8}, "model.layers.0.q", rank=4)


@pytest.mark.parametrize(
    ("content", "told"), [('{\n"a": ', r"config\.json:2: not valid JSON"), ("[]", "not a JSON obj")]
)
def test_a_damaged_config_is_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=told):
        MergedCheckpoint(tmp_path)


def test_an_index_without_a_weight_map_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(UsageError, match=r"index\.json: has no weight_map"):
        checkpoint_tensors(tmp_path)
