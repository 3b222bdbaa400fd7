"""transformers' logits of a checkpoint's first layers: python -m tuneserve.base.trainer_logits
CHECKPOINT JOB RESULT, where JOB is a JSON file with `layers`, the token ids `used`, which are the
model's whole vocabulary, and `sequences` of their numbers. RESULT is an .npz of float32 logits
[tokens, used], in the order of the sequences."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.extras import leave_out
from tuneserve.files import read_json
from tuneserve.safetensors import checkpoint_tensors

_BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")


def logits(
    checkpoint: Path, used: Sequence[int], layers: int, sequences: Sequence[Sequence[int]]
) -> list[Floats]:
    """Logits [tokens, used] of each sequence. Raises RuntimeError if transformers asks for other
    weights than the checkpoint has."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = read_json(checkpoint / "config.json")
    cut = AutoConfig.for_model(**_cut(config, layers, len(used)))
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(cut, dtype=torch.float32)
    state = {}
    for name, stored in checkpoint_tensors(checkpoint).items():
        if name.startswith("model.layers.") and int(name.split(".")[2]) >= layers:
            continue
        if name in _BY_TOKEN:
            values = np.concatenate([stored.rows(row, row + 1) for row in used])
        else:
            values = stored.rows()
        state[name] = torch.from_numpy(values)
    if config["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.eval()
    # It is little work; several threads that wait for each other can take longer than one.
    torch.set_num_threads(1)
    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
            for ids in sequences
        ]


def _cut(config: Mapping[str, Any], layers: int, tokens: int) -> dict[str, Any]:
    """config.json of the first `layers` layers with a vocabulary of `tokens`."""
    cut = {**config, "num_hidden_layers": layers, "vocab_size": tokens}
    cut |= {f"{name}_token_id": None for name in ("pad", "bos", "eos")}
    if kinds := config.get("layer_types"):
        cut["layer_types"] = kinds[:layers]
    return cut


if __name__ == "__main__":
    leave_out("torchvision")  # transformers checks every configuration with it
    job = read_json(Path(sys.argv[2]))
    found = logits(Path(sys.argv[1]), job["used"], job["layers"], job["sequences"])
    np.savez(sys.argv[3], *found)
