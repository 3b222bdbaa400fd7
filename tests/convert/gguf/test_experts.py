"""Mixtures of experts: their tensors, adapters on them, and llama.cpp's logits from the files.

Tiny random checkpoints of every family, whose weights are wide enough that a fault shows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import copy_tokenizer, make_adapter
from tests.convert.gguf.test_exact import DIFFERENT, DRIVER, check_same_file, make_checkpoint
from tests.convert.gguf.test_quantization import check_quantized_alike
from tests.support import ModulePaths
from tuneserve.convert.gguf.lora import write_lora
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import encoded_rows, write_gguf
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.slabs import row_count
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.probe import check_probe
from tuneserve.convert.verify.reference import transformers_config
from tuneserve.convert.verify.streamed_model import StreamedModel, Variant
from tuneserve.convert.verify.weights import TrainerWeights
from tuneserve.divergence import divergence
from tuneserve.errors import UsageError
from tuneserve.files import write_json
from tuneserve.gguf.reader import GGUFFile
from tuneserve.safetensors import checkpoint_tensors

_EIGHT = {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_QWEN = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ROUTED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
_LATENT = {
    **_ROUTED, "kv_lora_rank": 32, "q_lora_rank": 48, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "num_key_value_heads": 4,
}  # fmt: skip
# name: (model class, config)
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-moe": ("Qwen3MoeForCausalLM", {**_QWEN, "head_dim": 32, "norm_topk_prob": True}),
    "qwen2-moe": ("Qwen2MoeForCausalLM", {**_QWEN, "shared_expert_intermediate_size": 48}),
    "olmoe": ("OlmoeForCausalLM", {**_QWEN, "rms_norm_eps": 1e-5, "num_key_value_heads": 4}),
    "mixtral": ("MixtralForCausalLM", _EIGHT),
    "gpt-oss": ("GptOssForCausalLM", {**_LOCAL, "head_dim": 32, "sliding_window": 16}),
    "llama4": ("Llama4ForCausalLM", {
        **_LOCAL, "num_experts_per_tok": 1, "intermediate_size_mlp": 128, "head_dim": 32,
        "num_hidden_layers": 4, "interleave_moe_layer_step": 2,
    }),
    "deepseek-v2": ("DeepseekV2ForCausalLM", _LATENT),
    "deepseek-v3": ("DeepseekV3ForCausalLM", {
        **_LATENT, "scoring_func": "sigmoid", "n_routed_experts": 8, "n_group": 2, "topk_group": 1,
    }),
    "granite-moe": ("GraniteMoeForCausalLM", {
        **_LOCAL, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.2,
        "residual_multiplier": 0.5,
    }),
    "granite-shared": ("GraniteMoeSharedForCausalLM", {**_LOCAL, "shared_intermediate_size": 48}),
    "glm4-moe": ("Glm4MoeForCausalLM", {
        **_ROUTED, "head_dim": 32, "num_nextn_predict_layers": 0,
    }),
    "dots1": ("Dots1ForCausalLM", {
        **_ROUTED, "scoring_func": "sigmoid", "head_dim": 32, "num_key_value_heads": 4,
    }),
}  # fmt: skip
# One of each way to store experts: matrices of each, stacked, transposed, latent attention beside.
KINDS = ("qwen3-moe", "mixtral", "gpt-oss", "llama4", "deepseek-v2", "granite-shared")
EXPERTS = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
SEQUENCES = [[5, 17, 300, 4, 99, 230, 1, 33, 77, 120, 45, 90, 12, 5], [7, 8, 9]]


# What llama.cpp's converter looks up in the tokenizer of this family.
GLM_TOKENS = ("[gMASK]", "<|endoftext|>", "<|user|>", "<|observation|>")


def with_glm_tokens(tokenizer: Path, directory: Path) -> Path:
    """A copy of a tokenizer with GLM's special tokens."""
    directory.mkdir(parents=True)
    copy_tokenizer(tokenizer, directory)
    read = json.loads((directory / "tokenizer.json").read_text())
    known = {token["content"] for token in read["added_tokens"]}
    free = len({*read["model"]["vocab"], *known})
    for number, text in enumerate(text for text in GLM_TOKENS if text not in known):
        like = {**read["added_tokens"][0], "content": text, "id": free + number}
        read["added_tokens"].append(like)
    write_json(directory / "tokenizer.json", read)
    return directory


def make_mixture(directory: Path, case: str, tokenizer: Path) -> Path:
    model_class, changes = MIXTURES[case]
    if case == "glm4-moe":
        tokenizer = with_glm_tokens(tokenizer, directory.with_name(f"{directory.name}-tokenizer"))
    return make_checkpoint(directory, model_class, tokenizer, {"initializer_range": 0.2, **changes})


def make_expert_adapter(directory: Path, case: str, base: Path, tokenizer: Path) -> Path:
    attention = ["q_b_proj"] if case.startswith("deepseek") else ["q_proj", "v_proj"]
    lora = {"target_modules": [*attention, "o_proj"], "rank_pattern": {"q_proj": 8}, **EXPERTS}
    return make_adapter(directory, base, tokenizer, **lora)


def write(model: GGUFModel, path: Path, quantization: str = "F16") -> Path:
    choices = model.choices(quantization)
    write_gguf(path, model.metadata(quantization), model.sources, choices, threads=2)
    return path


@pytest.mark.parametrize("case", KINDS)
def test_an_adapter_on_experts(tokenizer_directory: Path, tmp_path: Path, case: str) -> None:
    """Merged, streamed and as a LoRA GGUF it computes what PEFT computes."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_mixture(tmp_path / "base", case, tokenizer_directory)
    adapter = make_expert_adapter(tmp_path / "adapter", case, base, tokenizer_directory)
    checkpoint = MergedCheckpoint(base, Adapter(adapter))
    tuned = GGUFModel(checkpoint, adapter, name="x")
    trainer = TrainerWeights(base, tied=checkpoint.tied)
    variants = [Variant(trainer), Variant(trainer, adapted=True), Variant(checkpoint)]
    streamed = StreamedModel(transformers_config(tuned), variants, adapter=adapter, threads=2)
    plain, adapted, merged = streamed.logits(SEQUENCES)

    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = [loaded(torch.tensor([ids])).logits[0].numpy() for ids in SEQUENCES]
        peft = PeftModel.from_pretrained(loaded, adapter).eval()
        trained = [peft(torch.tensor([ids])).logits[0].numpy() for ids in SEQUENCES]
    assert divergence(expected, trained).mean > 1e-3
    for found, wanted in ((plain, expected), (adapted, trained), (merged, trained)):
        assert divergence(wanted, found).mean < 1e-9

    peft.merge_and_unload().save_pretrained(tmp_path / "merged")
    theirs = checkpoint_tensors(tmp_path / "merged")
    for name in checkpoint.names:
        rows = theirs[name].rows().reshape(checkpoint.rows(name).shape)
        np.testing.assert_allclose(checkpoint.rows(name), rows, atol=1e-6, err_msg=name)

    assert (
        divergence(trained, file_logits(write(tuned, tmp_path / "f16"), SEQUENCES, threads=2)).mean
        < 1e-5
    )
    quantized = write(tuned, tmp_path / "q8", "Q8_0")
    for check in check_probe(
        TensorFile(quantized), tuned, SEQUENCES, folder=tmp_path, limit=1e-5, threads=2
    ):
        assert check.passed, check.detail
    if case == "deepseek-v2":  # llama.cpp would leave the adapter out without a word
        with pytest.raises(UsageError, match="put an adapter on"):
            write_lora(tmp_path / "lora.gguf", tuned, "x")
        return
    plain_file = write(GGUFModel(MergedCheckpoint(base), base, name="x"), tmp_path / "base.gguf")
    write_lora(tmp_path / "lora.gguf", tuned, "x")
    with_lora = file_logits(plain_file, SEQUENCES, threads=2, lora=tmp_path / "lora.gguf")
    assert divergence(trained, with_lora).mean < 1e-5


@pytest.fixture(scope="module")
def eight(tokenizer_directory: Path, module_paths: ModulePaths) -> GGUFModel:
    """Eight experts, rows of 256 and nine layers, so that all rules of the mixtures act."""
    model_class, changes = MIXTURES["mixtral"]
    wide = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 9}
    base = make_checkpoint(
        module_paths.mktemp("eight"), model_class, tokenizer_directory, {**changes, **wide}
    )
    return GGUFModel(MergedCheckpoint(base), base, name="x")


@pytest.mark.parametrize(
    "quantization",
    ["Q4_K_M", "Q4_K_S", "Q3_K_M", "Q3_K_L", "Q2_K", "IQ3_M", "IQ4_XS", "Q8_0", "MXFP4_MOE"],
)
def test_equals_llama_model_quantize(eight: GGUFModel, tmp_path: Path, quantization: str) -> None:
    check_quantized_alike(eight, quantization, tmp_path)


@pytest.mark.slow
def test_equals_llama_cpps_converter(
    tokenizer_directory: Path, llama_cpp_source: Path, tmp_path: Path
) -> None:
    """Every tensor's bytes and every key, as F16."""
    made = {case: tmp_path / f"{case}.gguf" for case in MIXTURES}
    bases = {case: make_mixture(tmp_path / case, case, tokenizer_directory) for case in MIXTURES}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(llama_cpp_source),
         *(f"{bases[case]}={path}=f16" for case, path in made.items())],
        capture_output=True, text=True, timeout=1000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for case, path in made.items():
        ours = GGUFFile(
            write(GGUFModel(MergedCheckpoint(bases[case]), bases[case], name=case), tmp_path / "x")
        )
        check_same_file(ours, GGUFFile(path), case, DIFFERENT)


def test_rows_of_stacks_are_rows_of_the_whole(tokenizer_directory: Path, tmp_path: Path) -> None:
    """In whatever slabs they are read: transposed, cut and put together of matrices."""
    for case in ("mixtral", "gpt-oss", "deepseek-v2"):
        base = make_mixture(tmp_path / case, case, tokenizer_directory)
        for name, source in GGUFModel(MergedCheckpoint(base), base, name="x").sources.items():
            if len(source.shape) < 3:
                continue
            count = row_count(source.shape)
            whole = source.rows(0, count)
            assert whole.shape == (count, source.shape[-1])
            for start, stop in ((0, 1), (count // 2 - 3, count // 2 + 3), (count - 1, count)):
                np.testing.assert_array_equal(source.rows(start, stop), whole[start:stop], name)


def test_each_expert_has_its_own_importance(tokenizer_directory: Path, tmp_path: Path) -> None:
    base = make_mixture(tmp_path / "base", "mixtral", tokenizer_directory)
    source = GGUFModel(MergedCheckpoint(base), base, name="x").sources["blk.0.ffn_up_exps.weight"]
    experts, rows, columns = source.shape
    weights = np.random.default_rng(0).uniform(0.1, 9, (experts, columns)).astype(np.float32)
    found = encoded_rows(source, "Q4_0", rows - 2, 2 * rows + 1, weights).reshape(rows + 3, -1)
    for row in (0, 2, rows + 2):
        expert = (rows - 2 + row) // rows
        span = rows - 2 + row, rows - 1 + row
        alone = encoded_rows(source, "Q4_0", *span, weights[expert])
        np.testing.assert_array_equal(found[row], alone)


def test_what_llama_cpp_computes_otherwise_is_refused(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    """It lets the chosen experts' weights sum up to one, whatever the configuration says."""
    model_class, changes = MIXTURES["qwen3-moe"]
    changes = {**changes, "norm_topk_prob": False}
    base = make_checkpoint(tmp_path / "base", model_class, tokenizer_directory, changes)
    model = GGUFModel(MergedCheckpoint(base), base, name="x")
    with pytest.raises(UsageError, match="computes with norm_topk_prob = True") as caught:
        model.metadata("F16")
    assert caught.value.where == "config.json: norm_topk_prob"
