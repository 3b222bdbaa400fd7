"""Makers of small real models for the tests of convert."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import MIXTURES
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import backend

# Weights wide enough that a fault shows in the logits.
SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 49152, "max_position_embeddings": 512,
    "initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    "rope_theta": 10000.0,
}  # fmt: skip
KINDS_OF_FOUR_BIT: dict[str, dict[str, Any]] = {
    "nf4": {"bnb_4bit_quant_type": "nf4"},
    "nf4-nested": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4-nested-half": {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True,
                        "dtype": "float16"},
    "skipping": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
                 "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp", "q_proj"]},
}  # fmt: skip
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_base(directory: Path, tokenizer: Path, **changes: Any) -> Path:
    """A random Llama checkpoint; `changes` go into its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = changes.pop("dtype", torch.float32)
    torch.manual_seed(1)
    config = LlamaConfig(**{**SHAPE, "tie_word_embeddings": True, **changes})
    LlamaForCausalLM(config).to(dtype).save_pretrained(directory)
    copy_tokenizer(tokenizer, directory)
    return directory


def quantized(source: Path, target: Path, tokenizer: Path, settings: dict[str, Any]) -> Any:
    """A checkpoint as transformers and bitsandbytes save it; the model is returned too."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = dict(settings)
    dtype = getattr(torch, settings.pop("dtype", "bfloat16"))
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, **settings)
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, dtype=dtype, device_map="cpu"
    )
    model.save_pretrained(target)
    copy_tokenizer(tokenizer, target)
    return model


def copy_tokenizer(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(path, target / path.name)


def make_adapter(directory: Path, base: Path, tokenizer: Path, **lora: Any) -> Path:
    """A PEFT adapter with random, non-zero weights; `vocabulary`: rows that the model is resized to
    before; `dtype`: that of the base as it is loaded."""
    make_adapted(directory, base, tokenizer, **lora)
    return directory


def make_adapted(
    directory: Path, base: Path, tokenizer: Path, *, vocabulary: int | None = None, **lora: Any
) -> Any:
    """The same; PEFT's model itself is returned."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    dtype = lora.pop("dtype", torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if vocabulary is not None:
        model.resize_token_embeddings(vocabulary)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, **lora}
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, weight in peft.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            torch.nn.init.normal_(weight, std=0.1)
        elif "modules_to_save" in name or "trainable_tokens_delta" in name:
            weight.data += 0.05 * torch.randn_like(weight)
    peft.save_pretrained(directory)
    copy_tokenizer(tokenizer, directory)
    return peft


def write_held_out(path: Path, count: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": str(n), "group": None, "source": None,
            "messages": [
                {"role": "user", "content": f"What is {n} plus {n}?"},
                {"role": "assistant", "content": str(2 * n)},
            ],
        }
        for n in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_sentencepiece_model(gguf: GGUFFile, path: Path, pieces: int = 32000) -> Path:
    """The first `pieces` tokens of a sentencepiece GGUF as a tokenizer.model."""
    from sentencepiece import sentencepiece_model_pb2 as format

    model = format.ModelProto()
    columns = ("tokens", "scores", "token_type")
    rows = zip(*(gguf.get(f"tokenizer.ggml.{column}")[:pieces] for column in columns), strict=True)
    for number, (text, score, kind) in enumerate(rows):
        # The first three are unknown, begin and end in every such model.
        model.pieces.add(piece=text, score=score, type=(2, 3, 3)[number] if number < 3 else kind)
    model.trainer_spec.model_type = format.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    path.write_bytes(model.SerializeToString())
    return path


def llama_quantize(
    source: Path,
    target: Path,
    quantization: str,
    means: Mapping[str, Floats] | None = None,
    provenance: Mapping[str, tuple[str, Any]] | None = None,
) -> None:
    """Quantize an F16 GGUF by llama.cpp; `means` is an importance matrix, `provenance` the metadata
    that says so."""
    import llama_cpp

    params = backend().llama_model_quantize_default_params()
    params.ftype = MIXTURES[quantization].file_type
    if means is not None and provenance is not None:
        entries = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
        for entry, (name, values) in zip(entries, means.items(), strict=False):
            entry.name, entry.size = name.encode(), len(values)
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        overrides = (llama_cpp.llama_model_kv_override * (len(provenance) + 1))()
        for override, (key, (kind, value)) in zip(overrides, provenance.items(), strict=False):
            override.key = key.encode()
            if kind == "string":
                override.tag, override.value.val_str = 3, value.encode()
            else:
                override.tag, override.value.val_i64 = 0, value
        params.imatrix, params.kv_overrides = entries, overrides
    assert backend().llama_model_quantize(bytes(source), bytes(target), params) == 0


@dataclass(frozen=True)
class Trained:
    """What training leaves: base and adapter directories, held-out examples."""

    base: Path
    adapter: Path
    held_out: Path

    def merged(self) -> MergedCheckpoint:
        return MergedCheckpoint(self.base, Adapter(self.adapter))

    def model(self) -> GGUFModel:
        return GGUFModel(self.merged(), self.adapter, name="tuned")

    def base_model(self) -> GGUFModel:
        return GGUFModel(MergedCheckpoint(self.base), self.adapter, name="base")
