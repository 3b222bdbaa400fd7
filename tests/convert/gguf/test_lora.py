"""The adapter as a GGUF: equal to convert_lora_to_gguf.py's, and applied by llama.cpp alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import Trained, make_adapter, make_base
from tuneserve.convert.gguf.lora import write_lora
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.system_prompt import SYSTEM_PROMPT, system_prompt_of

# Labels that the converter guesses from the model card.
GUESSED = ("general.name", "general.base_model", "general.tags", "general.languages",
           "general.license", "general.basename", "general.finetune", "general.size_label",
           "general.organization", "general.version")  # fmt: skip
DRIVER = """
import runpy, sys
folder, base = sys.argv[1:3]
sys.path[:0] = [folder + "/gguf-py", folder]
for pair in sys.argv[3:]:
    source, target = pair.split("=")
    sys.argv = ["convert_lora_to_gguf.py", source, "--base", base, "--outfile", target,
                "--outtype", "f16"]
    runpy.run_path(folder + "/convert_lora_to_gguf.py", run_name="__main__")
"""


def write(base: Path, adapter: Path, target: Path) -> GGUFFile:
    model = GGUFModel(MergedCheckpoint(base, Adapter(adapter)), adapter, name="x")
    write_lora(target, model, "x")
    return GGUFFile(target)


def test_the_system_prompt_of_training_is_in_both_files(trained: Trained, tmp_path: Path) -> None:
    """And nothing else changes: without one, the key is not there."""
    model = GGUFModel(trained.merged(), trained.adapter, name="x", system="Be brief.")
    plain = GGUFModel(trained.merged(), trained.adapter, name="x")
    added = {SYSTEM_PROMPT: ("string", "Be brief.")}
    assert model.metadata("F16") == {**plain.metadata("F16"), **added}
    assert SYSTEM_PROMPT not in plain.metadata("F16")
    write_lora(tmp_path / "with.gguf", model, "x")
    write_lora(tmp_path / "plain.gguf", plain, "x")
    adapter, without = GGUFFile(tmp_path / "with.gguf"), GGUFFile(tmp_path / "plain.gguf")
    assert system_prompt_of(adapter) == "Be brief."
    assert adapter.metadata == {**without.metadata, SYSTEM_PROMPT: "Be brief."}


@pytest.mark.slow
def test_equals_convert_lora_to_gguf(
    trained: Trained, tokenizer_directory: Path, llama_cpp_source: Path, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", tokenizer_directory, tie_word_embeddings=False)
    kinds: dict[str, dict[str, Any]] = {
        "all": {},
        "ranks": {"rank_pattern": {"q_proj": 8}},
        "ends": {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
    }
    adapters = {
        kind: make_adapter(tmp_path / kind, base, tokenizer_directory, **lora)
        for kind, lora in kinds.items()
    }
    pairs = [f"{path}={tmp_path / kind}.gguf" for kind, path in adapters.items()]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(llama_cpp_source), str(base), *pairs],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, path in adapters.items():
        ours = write(base, path, tmp_path / f"{kind}-ours.gguf")
        theirs = GGUFFile(tmp_path / f"{kind}.gguf")
        assert set(ours.tensors) == set(theirs.tensors), kind
        for name, tensor in theirs.tensors.items():
            assert ours.shape(name) == tensor.shape, name
            assert ours.type_name(name) == tensor.type_name, name
            assert np.array_equal(ours.tensors[name].data, tensor.data), name
        assert {k: v for k, v in ours.metadata.items() if not k.startswith(GUESSED)} == {
            k: v for k, v in theirs.metadata.items() if not k.startswith(GUESSED)
        }, kind


@pytest.mark.parametrize(
    ("lora", "problem"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "whole tensors"),
        ({"target_modules": ["embed_tokens"]}, "embedding and output in one"),
    ],
)
def test_what_llama_cpp_cannot_apply_is_refused(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path, lora: dict[str, Any], problem: str
) -> None:
    adapter = make_adapter(tmp_path / "a", trained.base, tokenizer_directory, **lora)
    with pytest.raises(UsageError, match="can't be a GGUF of its own") as caught:
        write(trained.base, adapter, tmp_path / "x.gguf")
    assert any(problem in found for found in caught.value.problems)


def test_scales_are_written_for_llama_cpps_rule(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path
) -> None:
    """alpha / r times b a is the change, whatever the configuration scales by."""
    kinds: dict[str, dict[str, Any]] = {
        "rslora": {"use_rslora": True},
        "alphas": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"up_proj": 32}},
    }
    for kind, lora in kinds.items():
        adapter = make_adapter(tmp_path / kind, trained.base, tokenizer_directory, **lora)
        found = write(trained.base, adapter, tmp_path / f"{kind}.gguf")
        alpha = found.require("adapter.lora.alpha")
        for layer_name in ("ffn_up", "ffn_down"):
            hf = {"ffn_up": "up_proj", "ffn_down": "down_proj"}[layer_name]
            change = Adapter(adapter).changes[f"model.layers.1.mlp.{hf}.weight"]
            a = found.dequantized(f"blk.1.{layer_name}.weight.lora_a")
            b = found.dequantized(f"blk.1.{layer_name}.weight.lora_b")
            np.testing.assert_allclose(
                alpha / len(a) * (b @ a), change.scale * (change.b @ change.a), atol=2e-3
            )
