"""A Llama of two small layers with random weights whose tokens are bytes, for steps in no time."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

EMBEDDING, FEED_FORWARD, HEADS, LAYERS = 64, 96, 2, 2
SPECIAL = ["<unk>", "<s>", "</s>"]
VOCABULARY = len(SPECIAL) + 256


def add_byte_vocabulary(writer: gguf.GGUFWriter, more: int = 0) -> None:
    """A vocabulary of three special tokens, the bytes and so many more."""
    writer.add_vocab_size(VOCABULARY + more)
    writer.add_tokenizer_model("llama")
    others = [f"more{number}" for number in range(more)]
    writer.add_token_list([*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *others])
    writer.add_token_scores([0.0] * (VOCABULARY + more))
    kinds = gguf.TokenType
    known = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    writer.add_token_types([*known, *[kinds.NORMAL] * more])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write_tiny_llama(
    path: Path,
    *,
    seed: int = 0,
    context: int = 4096,
    more_tokens: int = 0,
    mtp_layers: int = 0,
) -> Path:
    """The GGUF at `path`. `mtp_layers`: it says that it has such, as a file from which they were
    taken out does."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(context)
    writer.add_block_count(LAYERS + mtp_layers)
    if mtp_layers:
        writer.add_nextn_predict_layers(mtp_layers)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    add_byte_vocabulary(writer, more_tokens)

    def add(name: str, *shape: int) -> None:
        values = random.normal(0, shape[-1] ** -0.5, shape)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", VOCABULARY + more_tokens, EMBEDDING)
    add("output.weight", VOCABULARY + more_tokens, EMBEDDING)
    writer.add_tensor("output_norm.weight", np.ones(EMBEDDING, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{norm}.weight", np.ones(EMBEDDING, np.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}{part}.weight", EMBEDDING, EMBEDDING)
        add(f"{block}ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        add(f"{block}ffn_up.weight", FEED_FORWARD, EMBEDDING)
        add(f"{block}ffn_down.weight", EMBEDDING, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
