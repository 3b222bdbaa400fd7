"""Loads a GGUF and computes with it once: python -m tuneserve.llama.trial_child GGUF [vocabulary]

Weights stay in the mapped file, on the CPU. Each function of llama.cpp that serving calls is called
once: what ends the process in them ends this one. Weights that are no numbers are looked for, and
so are logits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tuneserve.child import REFUSED
from tuneserve.errors import TuneserveError
from tuneserve.gguf.parts import open_whole, part_paths
from tuneserve.llama.context import LlamaContext
from tuneserve.llama.finite import SMALL_BYTES, mapped_pieces, not_finite
from tuneserve.llama.library import backend, physical_cores
from tuneserve.llama.model import LlamaModel
from tuneserve.llama.trial import NOT_FINITE, VOCABULARY
from tuneserve.memory import main_memory

TEXTS = ("Hello, world!\n", " 1 + 1 = 2\t", "naïve 你好 🙂 \x00\x01\x7f\ufffd", "")
TOKENS, AT_ONCE = 4, 2
"""Of a batch, and of a micro-batch: in use too a batch has several."""
MOST_PIECES = 4096
SINGLE_THREAD_BYTES = 512 << 20
"""Of a smaller file the tokens are read sooner than threads are woken."""


def use(model: LlamaModel, *, threads: int) -> bool:
    """Tokenize, write tokens out, and read a few of them, with so many threads; 0: don't. Are the
    logits numbers, or is a GPU to compute them, which may where a CPU doesn't?"""
    ids: list[int] = []
    for text in TEXTS:
        ids += model.tokenize(text, add_special=True)
        ids += model.tokenize(text)
    for token in {*ids, *range(0, model.n_vocab, model.n_vocab // MOST_PIECES + 1)}:
        model.token_bytes(token)
        model.token_text(token)
        model.is_special(token)
    _ = model.bos, model.eos, model.mtp_layers
    if not threads:
        return True
    with LlamaContext(
        model, n_ctx=256, n_batch=TOKENS, n_ubatch=AT_ONCE, causal=False, threads=threads,
        on_cpu=True,
    ) as context:  # fmt: skip
        logits = context.logits([*ids, *[0] * TOKENS][:TOKENS], start=0)
    finite = bool(np.isfinite(logits.max(axis=1)).all())
    return finite or bool(backend().llama_supports_gpu_offload())


def bad_weights(path: Path, *, threads: int) -> list[str]:
    """The tensors that hold anything that is no finite number, looked for in all of them; with 0
    threads in the small ones."""
    pieces = [
        piece
        for name, tensor in open_whole(path).tensors.items()
        if threads or tensor.size <= SMALL_BYTES
        for piece in mapped_pieces(name, tensor)
    ]
    return not_finite(pieces, threads or 1)


def _threads(size: int) -> int:
    """0 for a file that does not fit the memory: it would be read from the disk for this alone."""
    if size >= main_memory().available:
        return 0
    return 1 if size < SINGLE_THREAD_BYTES else physical_cores()


def main(path: Path, *, weights: bool) -> int:
    """The exit code."""
    try:
        model = LlamaModel(path, repack=False, vocab_only=not weights, tried=True)
    except TuneserveError as error:
        print(error.message.removeprefix("llama.cpp can't load it: "))
        return REFUSED
    with model:
        size = sum(part.stat().st_size for part in part_paths(path))
        threads = _threads(size) if weights else 0
        if bad := bad_weights(path, threads=threads):
            print("\n".join(f"{name} holds values that are no finite numbers" for name in bad))
            return NOT_FINITE
        try:
            if not use(model, threads=threads):
                print("it computes no finite numbers, though all its weights are")
                return NOT_FINITE
        except TuneserveError as error:  # what it says here, it says again when it is used
            print(error.message, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), weights=VOCABULARY not in sys.argv[2:]))
