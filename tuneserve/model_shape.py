"""The sizes of a model, from its config.json: what every stage estimates its memory by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.model_files import LARGEST_SIZE, check_config, shown
from tuneserve.text_model import text_config

# What configs of different families call the number of experts in a layer.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
# All that is reckoned with.
_NUMBERS = (
    *_EXPERTS, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "qk_nope_head_dim", "qk_rope_head_dim",
    "moe_intermediate_size", "intermediate_size_mlp", "shared_expert_intermediate_size",
    "shared_intermediate_size", "n_shared_experts", "moe_num_shared_experts", "moe_k",
    "num_experts_per_tok", "interleave_moe_layer_step", "first_k_dense_replace",
    "num_dense_layers", "moe_layer_start_index",
)  # fmt: skip


def _is_number(value: Any) -> bool:
    """Is it a count that a model may have, or not there?"""
    return value is None or (type(value) is int and 0 <= value <= LARGEST_SIZE)


def expert_count(config: Mapping[str, Any]) -> int:
    """How many experts a layer of config.json's model chooses from; 0 if it is no mixture."""
    counts = [config[name] for name in _EXPERTS if isinstance(config.get(name), int)]
    return counts[0] if counts and counts[0] > 1 else 0


@dataclass(frozen=True)
class Experts:
    """The mixture of a layer: `count` experts of width `intermediate`, of which a token goes
    through `used`, and one of width `shared` (0: none) that all go through; the model's
    `dense_layers` have none."""

    count: int
    used: int
    intermediate: int
    shared: int = 0
    dense_layers: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Experts | None:
        """From config.json's content; None for a dense model. Raises KeyError for a size that is
        missing."""
        count = expert_count(config)
        if not count:
            return None
        width = int(config.get("moe_intermediate_size") or config["intermediate_size"])
        shared = config.get("shared_expert_intermediate_size") or config.get(
            "shared_intermediate_size"
        )
        if shared is None:
            number = config.get("n_shared_experts") or config.get("moe_num_shared_experts") or 0
            # Llama 4 has one, and calls its own width that of the dense layers.
            shared = number * width if "intermediate_size_mlp" not in config else width
        return cls(
            count=count,
            used=int(config.get("num_experts_per_tok") or config.get("moe_k") or 1),
            intermediate=width,
            shared=int(shared),
            dense_layers=_dense_layers(config),
        )


def _dense_width(config: Mapping[str, Any]) -> int:
    """The width of a dense layer; of a model without any, an expert's."""
    names = ("intermediate_size_mlp", "intermediate_size", "moe_intermediate_size")
    widths = (int(config[name]) for name in names if config.get(name))
    width = next(widths, None)
    if width is None:
        raise KeyError("intermediate_size")
    return width


def _dense_layers(config: Mapping[str, Any]) -> int:
    layers = int(config["num_hidden_layers"])
    if isinstance(config.get("moe_layers"), list):
        return layers - len(config["moe_layers"])
    step = int(config.get("interleave_moe_layer_step") or 1)
    first = config.get("first_k_dense_replace") or config.get("num_dense_layers")
    return int(first or config.get("moe_layer_start_index") or layers - layers // step)


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a Llama-like decoder.

    `query` and `key_value` are the widths of all heads together; `architecture` is config.json's
    `architectures[0]`; `intermediate` is the width of a dense layer, `experts` the mixture of the
    others, if it is one.
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
    experts: Experts | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
        """From config.json's content. Raises UsageError naming a size that is missing or none."""
        config = text_config(config)
        if odd := [name for name in _NUMBERS if not _is_number(config.get(name))]:
            raise UsageError(
                "this model can't be planned with such sizes",
                where=where,
                problems=[f"{name} = {shown(config[name])}" for name in odd],
            )
        try:
            found: ModelShape | None = cls._of(config)
        except KeyError as error:
            raise UsageError(
                f"{error} is not in it: this model can't be planned", where=where
            ) from error
        except (TypeError, ZeroDivisionError):  # null, where there has to be a number, or none
            found = None
        if found is None or not found._is_possible:
            raise UsageError(
                "this model can't be planned: its sizes contradict each other", where=where
            )
        return found

    @classmethod
    def _of(cls, config: Mapping[str, Any]) -> ModelShape:
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or config["hidden_size"] // heads
        if config.get("qk_nope_head_dim"):  # DeepSeek
            head = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
        return cls(
            hidden=config["hidden_size"],
            intermediate=_dense_width(config),
            layers=config["num_hidden_layers"],
            query=heads * head,
            key_value=(config.get("num_key_value_heads") or heads) * head,
            vocabulary=config["vocab_size"],
            heads=heads,
            tied=bool(config.get("tie_word_embeddings", False)),
            architecture=(config.get("architectures") or [cls.architecture])[0],
            experts=Experts.of(config),
        )

    @property
    def _is_possible(self) -> bool:
        sizes = (self.hidden, self.intermediate, self.layers, self.query, self.key_value,
                 self.vocabulary)  # fmt: skip
        mixed = self.experts.dense_layers if self.experts else 0
        return all(sizes) and 0 <= mixed <= self.layers

    @classmethod
    def read(cls, checkpoint: Path) -> ModelShape:
        """Of a checkpoint directory. Raises UsageError as `of` does."""
        path = checkpoint / "config.json"
        return cls.of(check_config(path), str(path))

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
        """(inputs, outputs) of a dense layer's projections."""
        h, f = self.hidden, self.intermediate
        return {
            "q_proj": (h, self.query), "k_proj": (h, self.key_value),
            "v_proj": (h, self.key_value), "o_proj": (self.query, h),
            "gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h),
        }  # fmt: skip

    def _times(self, name: str) -> list[tuple[int, int, int]]:
        """How often the model has a projection of this name, with which inputs and outputs."""
        inputs, outputs = self.projections[name]
        mixture = self.experts
        if mixture is None or name not in ("gate_proj", "up_proj", "down_proj"):
            return [(self.layers, inputs, outputs)]
        mixed = self.layers - mixture.dense_layers
        found = [(mixture.dense_layers, inputs, outputs)]
        for count, width in ((mixture.count, mixture.intermediate), (1, mixture.shared)):
            sizes = (width, self.hidden) if name == "down_proj" else (self.hidden, width)
            found.append((mixed * count if width else 0, *sizes))
        return found

    @property
    def projection_parameters(self) -> int:
        routers = 0
        if self.experts is not None:
            routers = self.experts.count * self.hidden * (self.layers - self.experts.dense_layers)
        return routers + sum(
            times * inputs * outputs
            for name in self.projections
            for times, inputs, outputs in self._times(name)
        )

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.projection_parameters + self.embedding_parameters + norms

    def adapter_parameters(self, r: int, targets: tuple[str, ...]) -> int:
        """Parameters of a LoRA adapter of rank `r` on these projections, of experts on each one's
        matrices."""
        h, f = self.hidden, self.intermediate
        names = set(targets)
        if self.experts is not None:
            # PEFT adapts experts' gate and up together, with twice the rank where both are named.
            fused = {"gate_up_proj"} & names
            names = (names - fused) | ({"gate_proj", "up_proj"} if fused else set())
        sizes = [size for name in self.projections if name in names for size in self._times(name)]
        if self.experts is None:
            # Phi-3 has some of the projections in one matrix.
            fused_sizes = {"qkv_proj": self.query + 2 * self.key_value, "gate_up_proj": 2 * f}
            sizes += [(self.layers, h, out) for name, out in fused_sizes.items() if name in names]
        return r * sum(times * (inputs + outputs) for times, inputs, outputs in sizes)

    def copied_parameters(self, modules: tuple[str, ...]) -> int:
        """Parameters of the modules that are trained whole, as copies."""
        wide = sum(name in ("embed_tokens", "lm_head") for name in modules)
        return wide * self.vocabulary * self.hidden

    @property
    def kept_per_token(self) -> int:
        """Values that one layer keeps per token for its backward pass; of experts, those that a
        token goes through, each with its own copy of the input and the output."""
        width, copies = self.intermediate, 0
        if self.experts is not None:
            mixed = self.experts.used * self.experts.intermediate + self.experts.shared
            width = max(mixed, width if self.experts.dense_layers else 0)
            copies = 2 * self.experts.used * self.hidden
        return 3 * width + copies + 2 * self.query + 2 * self.key_value + 2 * self.hidden
