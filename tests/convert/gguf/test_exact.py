"""Every architecture's F16 GGUF against llama.cpp's own converter: every tensor's bytes, every key.

Tiny random checkpoints with real tokenizers. The keys that differ on purpose are in DIFFERENT.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import copy_tokenizer, write_sentencepiece_model
from tests.support import ModulePaths
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.files import write_json
from tuneserve.gguf.architectures.llama import llama3_factors
from tuneserve.gguf.reader import GGUFFile

# Only these may differ: they are labels that the converter guesses from the directory's name and
# the model card, and nothing computes with them.
DIFFERENT = {"general.name", "general.basename", "general.finetune", "general.size_label",
             "general.version", "general.organization"}  # fmt: skip
SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "long_factor": [1.0 + i for i in range(8)],
    "short_factor": [1.0 + i / 10 for i in range(8)], "original_max_position_embeddings": 1024,
}  # fmt: skip
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 256}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
# name: (model class, vocabulary, config)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama-tied": ("LlamaForCausalLM", "demo", {"tie_word_embeddings": True}),
    "llama-3": ("LlamaForCausalLM", "llama-bpe",
                {"rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0}),
    "mistral": ("MistralForCausalLM", "demo", {"head_dim": 32, "sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", {"rope_theta": 1000000.0}),
    "qwen2-yarn": ("Qwen2ForCausalLM", "qwen2", {"rope_scaling": YARN}),
    "qwen3": ("Qwen3ForCausalLM", "qwen2", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma3": ("Gemma3ForCausalLM", "demo", GEMMA),
    "phi3": ("Phi3ForCausalLM", "gpt-2", {"sliding_window": None,
             "original_max_position_embeddings": 4096}),
    "mistral-spm": ("MistralForCausalLM", "llama-spm", {"sliding_window": None}),
    "llama-2-padded": ("LlamaForCausalLM", "llama-spm", {"vocab_size": 32016 + 8}),
    "gemma3-spm": ("Gemma3ForCausalLM", "llama-spm-bare", GEMMA),
    "phi3-spm": ("Phi3ForCausalLM", "phi-3", {"sliding_window": None,
                 "original_max_position_embeddings": 4096}),
    "phi3-long": ("Phi3ForCausalLM", "gpt-2", {"rope_scaling": LONGROPE,
                  "original_max_position_embeddings": 1024}),
}  # fmt: skip
DRIVER = """
import runpy, sys
folder = sys.argv[1]
sys.path[:0] = [folder + "/gguf-py", folder]
for wanted in sys.argv[2:]:
    source, target, kind = wanted.split("=")
    sys.argv = ["convert_hf_to_gguf.py", source, "--outfile", target, "--outtype", kind]
    runpy.run_path(folder + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def check_same_file(ours: GGUFFile, theirs: GGUFFile, case: str, known: Container[str]) -> None:
    """The same tensors byte for byte, and the same metadata but for the `known` keys."""
    assert set(ours.tensors) == set(theirs.tensors), case
    for name, tensor in theirs.tensors.items():
        where = f"{case}: {name}"
        assert (ours.shape(name), ours.type_name(name)) == (
            theirs.shape(name), theirs.type_name(name)
        ), where  # fmt: skip
        assert np.array_equal(ours.tensors[name].data, tensor.data), where
    assert {k: v for k, v in ours.metadata.items() if k not in known} == {
        k: v for k, v in theirs.metadata.items() if k not in known
    }, case


@pytest.fixture(scope="module")
def vocabularies(
    llama_cpp_source: Path, tokenizer_directory: Path, module_paths: ModulePaths
) -> dict[str, Path]:
    """Directories with the tokenizers of llama.cpp's vocabulary files."""
    found = {"demo": tokenizer_directory}
    for name in ("llama-bpe", "qwen2", "gpt-2", "llama-spm", "llama-spm-bare", "phi-3"):
        path = llama_cpp_source / "models" / f"ggml-vocab-{name.removesuffix('-bare')}.gguf"
        found[name] = module_paths.mktemp(name)
        gguf = GGUFFile(path)
        if name.endswith("-bare"):  # as Gemma has it: no space is put in front
            gguf.metadata["tokenizer.ggml.add_space_prefix"] = False
        write_tokenizer(gguf, found[name])
        if gguf.get("tokenizer.ggml.model") == "llama":
            write_sentencepiece_model(gguf, found[name] / "tokenizer.model")
    return found


@pytest.fixture(scope="module")
def checkpoints(vocabularies: dict[str, Path], module_paths: ModulePaths) -> dict[str, Path]:
    return {
        case: make_checkpoint(module_paths.mktemp(case), CASES[case][0],
                              vocabularies[CASES[case][1]], CASES[case][2])
        for case in CASES
    }  # fmt: skip


def make_checkpoint(
    directory: Path, model_class: str, tokenizer: Path, changes: dict[str, Any]
) -> Path:
    import torch
    import transformers

    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())
    ids = [*vocabulary["model"]["vocab"].values(), *(t["id"] for t in vocabulary["added_tokens"])]
    cls = getattr(transformers, model_class)
    torch.manual_seed(3)
    settings = {**SMALL, "vocab_size": max(ids) + 1, "tie_word_embeddings": False, **changes}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = cls(cls.config_class(**{**special, **settings})).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # norms and biases too
    model.save_pretrained(directory, max_shard_size="6MB")
    copy_tokenizer(tokenizer, directory)
    if model_class.startswith("Phi3") and not (tokenizer / "tokenizer.model").exists():
        # The converter tells byte-level BPE from sentencepiece by this name.
        path = directory / "tokenizer_config.json"
        write_json(path, {**json.loads(path.read_text()), "tokenizer_class": "GPT2Tokenizer"})
    return directory


# All as F16, and these as BF16 too.
AS_BF16 = ("llama-tied", "gemma3")
WANTED = [(case, "F16") for case in CASES] + [(case, "BF16") for case in AS_BF16]


@pytest.fixture(scope="module")
def converted(
    llama_cpp_source: Path, checkpoints: dict[str, Path], module_paths: ModulePaths
) -> dict[tuple[str, str], Path]:
    """What llama.cpp's converter makes of every checkpoint, by case and type."""
    folder = module_paths.mktemp("theirs")
    made = {(case, kind): folder / f"{case}-{kind}.gguf" for case, kind in WANTED}
    wanted = [f"{checkpoints[case]}={path}={kind.lower()}" for (case, kind), path in made.items()]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(llama_cpp_source), *wanted],
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kind"), WANTED)
def test_equals_llama_cpps_converter(
    checkpoints: dict[str, Path],
    converted: dict[tuple[str, str], Path],
    tmp_path: Path,
    case: str,
    kind: str,
) -> None:
    model = GGUFModel(MergedCheckpoint(checkpoints[case]), checkpoints[case], name=case)
    ours_path = tmp_path / "ours.gguf"
    write_gguf(ours_path, model.metadata(kind), model.sources, model.choices(kind), threads=2)
    ours, theirs = GGUFFile(ours_path), GGUFFile(converted[case, kind])

    assert set(ours.tensors) == set(theirs.tensors)
    for name, tensor in theirs.tensors.items():
        assert ours.shape(name) == theirs.shape(name), name
        assert ours.type_name(name) == theirs.type_name(name), name
        if name == "rope_freqs.weight":
            # The last bit of torch's power, which the converter takes, differs between its runs.
            mine, other = (ours.tensors[name].data.view(np.float32), tensor.data.view(np.float32))
            np.testing.assert_array_max_ulp(mine, other, maxulp=1)
            continue
        assert np.array_equal(ours.tensors[name].data, tensor.data), name

    found, expected = ours.metadata, theirs.metadata
    assert {k: v for k, v in found.items() if k not in DIFFERENT} == {
        k: v for k, v in expected.items() if k not in DIFFERENT
    }


@pytest.mark.parametrize("size", [16, 64, 80, 128])
@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_llama_3s_rope_factors_have_the_bits_of_torchs_arithmetic(size: int, base: float) -> None:
    import torch

    frequencies = 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    expected = []
    for frequency in frequencies.tolist():
        wavelength = 2 * math.pi / frequency
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        if wavelength < 8192 / 4.0:
            expected.append(1.0)
        else:
            expected.append(8.0 if wavelength > 8192 else 1 / ((1 - smooth) / 8.0 + smooth))
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    assert np.array_equal(llama3_factors(scaling, base, size), np.array(expected, np.float32))
