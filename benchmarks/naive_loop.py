"""The least that batches continuously: a reference for what llama.cpp itself gives on a machine.

No HTTP, no sampling but the most probable token, no prefix cache, no cancellation: every sequence
is prefilled in one call, then each step decodes one token of all. What a server loses against
this is what serving costs.

    python benchmarks/naive_loop.py model.gguf --clients 1 8 32 --gpu-layers 99

The last line is JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time

import llama_cpp
import numpy as np


def load(arguments: argparse.Namespace) -> tuple[object, object]:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = arguments.gpu_layers
    # AMX kernels of this release crash; they come through the extra buffer types.
    params.use_extra_bufts = b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()
    model = llama_cpp.llama_model_load_from_file(arguments.model.encode(), params)
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_seq_max, options.kv_unified = 16384, max(arguments.clients), True
    options.n_batch, options.n_ubatch = 4096, 512
    options.type_k = options.type_v = llama_cpp.GGML_TYPE_Q8_0
    options.flash_attn_type = 1
    options.n_threads = options.n_threads_batch = arguments.threads
    context = llama_cpp.llama_init_from_model(model, options)
    if not context:
        raise SystemExit("llama.cpp can't load this model")
    return model, context


def generate(context: object, n_vocab: int, clients: int, prompt: list[int], count: int) -> float:
    """Tokens per second of `clients` sequences of `count` tokens each, prefill included."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(max(clients, clients * len(prompt)), 0, 1)
    started = time.perf_counter()
    pending = [list(prompt) for _ in range(clients)]
    for step in range(count):
        batch.n_tokens = 0
        for sequence, tokens in enumerate(pending):
            first = 0 if step == 0 else len(prompt) + step - 1
            for offset, token in enumerate(tokens):
                i = batch.n_tokens
                batch.token[i], batch.pos[i] = token, first + offset
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
                batch.logits[i] = offset == len(tokens) - 1
                batch.n_tokens += 1
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        pointer = llama_cpp.llama_get_logits(context)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        assert address is not None
        buffer = (ctypes.c_float * (clients * n_vocab)).from_address(address)
        rows = np.ctypeslib.as_array(buffer).reshape(clients, n_vocab)
        pending = [[int(token)] for token in rows.argmax(axis=1)]
    seconds = time.perf_counter() - started
    llama_cpp.llama_batch_free(batch)
    return clients * count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    model, context = load(arguments)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    prompt = list(range(100, 140))
    generate(context, n_vocab, max(arguments.clients), prompt, 8)
    results = {
        str(clients): round(
            max(
                generate(context, n_vocab, clients, prompt, arguments.max_tokens)
                for _ in range(arguments.repeats)
            ),
            1,
        )
        for clients in arguments.clients
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
