"""The sizes of a model, from its config.json: what every stage estimates its memory by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError

# What configs of different families call the number of experts in a layer.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def expert_count(config: Mapping[str, Any]) -> int:
    """How many experts a layer of config.json's model chooses from; 0 if it is no mixture."""
    counts = [config[name] for name in _EXPERTS if isinstance(config.get(name), int)]
    return counts[0] if counts and counts[0] > 1 else 0


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a Llama-like decoder.

    `query` and `key_value` are the widths of all heads together; `architecture` is config.json's
    `architectures[0]`.
    """

    hidden: int
    intermediate: int
    layers: int
    query: int
    key_value: int
    vocabulary: int
    heads: int
    tied: bool
    architecture: str = "LlamaForCausalLM"

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
        """From config.json's content. Raises UsageError naming a size that is missing, and for a
        mixture of experts, whose layers hold several times the sizes they compute with."""
        if any(config.get(key) not in (None, 0, 1) for key in _EXPERTS):
            raise UsageError("a mixture of experts can't be planned", where=where)
        try:
            heads = config["num_attention_heads"]
            head = config.get("head_dim") or config["hidden_size"] // heads
            return cls(
                hidden=config["hidden_size"],
                intermediate=config["intermediate_size"],
                layers=config["num_hidden_layers"],
                query=heads * head,
                key_value=(config.get("num_key_value_heads") or heads) * head,
                vocabulary=config["vocab_size"],
                heads=heads,
                tied=bool(config.get("tie_word_embeddings", False)),
                architecture=(config.get("architectures") or [cls.architecture])[0],
            )
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{error} is not in it: this model can't be planned", where=where
            ) from error

    @classmethod
    def read(cls, checkpoint: Path) -> ModelShape:
        """Of a checkpoint directory. Raises UsageError as `of` does."""
        path = checkpoint / "config.json"
        return cls.of(json.loads(path.read_text(encoding="utf-8")), str(path))

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.query // self.heads

    @property
    def grouping(self) -> int:
        """Query heads for each key-value head."""
        return self.query // self.key_value

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of a layer's projections."""
        h, f = self.hidden, self.intermediate
        return {
            "q_proj": (h, self.query), "k_proj": (h, self.key_value),
            "v_proj": (h, self.key_value), "o_proj": (self.query, h),
            "gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h),
        }  # fmt: skip

    @property
    def projection_parameters(self) -> int:
        return self.layers * sum(a * b for a, b in self.projections.values())

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.projection_parameters + self.embedding_parameters + norms

    def adapter_parameters(self, r: int, targets: tuple[str, ...]) -> int:
        """Parameters of a LoRA adapter of rank `r` on these projections."""
        h, f = self.hidden, self.intermediate
        # Phi-3 has some of the projections in one matrix.
        fused = {"qkv_proj": (h, self.query + 2 * self.key_value), "gate_up_proj": (h, 2 * f)}
        known = self.projections | fused
        sizes = [known[name] for name in targets if name in known]
        return self.layers * r * sum(a + b for a, b in sizes)

    def copied_parameters(self, modules: tuple[str, ...]) -> int:
        """Parameters of the modules that are trained whole, as copies."""
        wide = sum(name in ("embed_tokens", "lm_head") for name in modules)
        return wide * self.vocabulary * self.hidden

    @property
    def kept_per_token(self) -> int:
        """Values that one layer keeps per token for its backward pass."""
        return 3 * self.intermediate + 2 * self.query + 2 * self.key_value + 2 * self.hidden
