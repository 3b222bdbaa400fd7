"""Right conversions of tiny models, into which tests plant faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.convert.convert_support import Trained, make_adapter, write_held_out
from tuneserve.chat.examples import read_split
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.result import Check
from tuneserve.convert.verify import Candidate, verify
from tuneserve.convert.verify.verify import vocabulary_checks
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.gguf.pretokenizers import by_name
from tuneserve.settings import ConvertSettings

QUANTIZATION = "Q8_0"
SPECIAL = ("<|begin|>", "<|end|>", "<|im_start|>", *(f"<|reserved_{n}|>" for n in range(60)))
TEMPLATE = (
    "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 2048,
    "initializer_range": 0.15, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LINEAR = {"rope_type": "linear", "factor": 4.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"rope_scaling": LLAMA3, "rope_theta": 500000.0,
              "attention_bias": True}),
    "linear": ("LlamaForCausalLM", {"rope_scaling": LINEAR, "rope_theta": 10000.0}),
    "qwen2": ("Qwen2ForCausalLM", {"rope_scaling": YARN, "head_dim": 16}),
    "gemma3": ("Gemma3ForCausalLM", {"sliding_window": 512, "query_pre_attn_scalar": 32,
               "num_hidden_layers": 6}),
}  # fmt: skip
TEXT = (
    "The quick brown fox jumps over the lazy dog. What is 1 plus 23? It is 24, isn't it! "
    "CamelCase and HTTPServer are words; DON'T ask. def f(x): return x ** 2\n\n"
    "In 2024 and 1995 there were 1234 and 98765 of 1000000; 2024 + 1995 = 4019, 1234, 98765.\n"
)
Metadata = dict[str, tuple[str, Any]]


def make_tokenizer(directory: Path) -> Path:
    """Byte-level BPE of a few hundred tokens with Llama 3's pre-tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=620, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT] * 2, trainer)
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = by_name("llama-bpe").to_json()
    content["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                          "use_regex": True}  # fmt: skip
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token=SPECIAL[0], eos_token=SPECIAL[1], chat_template=TEMPLATE,
    )  # fmt: skip
    made.save_pretrained(directory)
    return directory


def make_trained(root: Path, name: str, tokenizer: Path) -> Trained:
    """A tiny base of this name in MODELS, an adapter on it and held-out examples."""
    import torch
    import transformers

    from tests.convert.convert_support import copy_tokenizer

    model_class, changes = MODELS[name]
    cls = getattr(transformers, model_class)
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())
    rows = len(vocabulary["model"]["vocab"])
    torch.manual_seed(5)
    model = cls(cls.config_class(**{**SIZES, "vocab_size": rows, **changes}))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases, else all the same
                parameter.add_((0.5 if "bias" in key else 0.2) * torch.randn_like(parameter))
    model.save_pretrained(root / "base")
    copy_tokenizer(tokenizer, root / "base")
    adapter = make_adapter(root / "adapter", root / "base", tokenizer)
    return Trained(root / "base", adapter, write_held_out(root / "test.jsonl"))


@dataclass(frozen=True)
class Conversion:
    """A right conversion, and the models to make others from."""

    trained: Trained
    folder: Path

    def written(
        self,
        tuned: GGUFModel,
        base: GGUFModel,
        *,
        metadata: Callable[[Metadata], None] = lambda _: None,
        expected: GGUFModel | None = None,
    ) -> Candidate:
        """Both files as `convert` writes them; `metadata` changes the tuned one's."""
        made = {}
        for name, model in (("tuned", tuned), ("base", base)):
            entries = model.metadata(QUANTIZATION)
            if name == "tuned":
                metadata(entries)
            path = self.folder / f"{name}.gguf"
            made[path] = write_gguf(
                path, entries, model.sources, model.choices(QUANTIZATION), threads=1
            )
        first, second = made
        return Candidate(
            first, expected or tuned, self.trained.adapter, self.trained.held_out, second, base,
            written=made,
        )  # fmt: skip


def failed(candidate: Candidate) -> set[str]:
    """The contracts that refuse this candidate."""
    settings = ConvertSettings(quantization=QUANTIZATION, threads=1)
    return {check.contract for check in verify(candidate, settings)[0] if not check.passed}


def failed_vocabulary(trained: Trained, path: Path) -> Mapping[str, Check]:
    """The contracts about the vocabulary that refuse this file."""
    checks = vocabulary_checks(
        path, TrainerTokenizer(trained.adapter), read_split(trained.held_out)
    )
    return {check.contract: check for check in checks if not check.passed}


def changed(model: GGUFModel, **architecture: Any) -> GGUFModel:
    """The model with another table of its architecture."""
    model.architecture = replace(model.architecture, **architecture)
    model.sources = model._find_sources()
    return model
