"""Do the stored tensors have the shapes that config.json asks for? The training libraries only say
so when they load them, in a traceback."""

from __future__ import annotations

from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures.common import head_size, key_value_heads

# Those whose projections of a layer have the usual sizes.
_USUAL = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")


def check_shapes(model: GGUFModel) -> None:
    """Raise UsageError if embedding or first layer have other shapes than config.json says."""
    config, checkpoint = model.config, model.checkpoint
    hidden = config["hidden_size"]
    expected = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    if model.architecture.gguf_name in _USUAL and "num_local_experts" not in config:
        layer, size = "model.layers.0", head_size(config)
        expected |= {
            f"{layer}.self_attn.q_proj.weight": (config["num_attention_heads"] * size, hidden),
            f"{layer}.self_attn.k_proj.weight": (key_value_heads(config) * size, hidden),
            f"{layer}.mlp.up_proj.weight": (config["intermediate_size"], hidden),
        }
    stored = set(checkpoint.names)
    wrong = [
        f"{name}: {list(checkpoint.shape(name))} in the file, {list(shape)} by config.json"
        for name, shape in expected.items()
        if name in stored and checkpoint.shape(name) != shape
    ]
    if wrong:
        raise UsageError(
            "weights and config.json are of different models",
            where=str(checkpoint.directory / "config.json"), problems=wrong,
        )  # fmt: skip
