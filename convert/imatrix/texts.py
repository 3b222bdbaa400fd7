"""What an importance matrix is measured on: the user's own training examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuneserve.chat.examples import sample_split
from tuneserve.chat.prompt import GGUFTokenizer, encode, template_of
from tuneserve.convert.imatrix.collector import SMALLEST_BATCH
from tuneserve.convert.imatrix.matrix import CHUNK
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel


def training_chunks(
    model: LlamaModel, examples: Path, tokens: int, *, thoughts: str = "train"
) -> list[list[int]]:
    """About `tokens` tokens of the examples, drawn from all of the file and encoded as training
    has them, in chunks; `thoughts` is [data]'s setting. Raises UsageError if there is less than
    SMALLEST_BATCH of them."""
    tokenizer = GGUFTokenizer(model)
    ids: list[int] = []
    for example in sample_split(examples):
        template = template_of(model) if example.prompt else None
        encoded = encode(tokenizer, template, example, thoughts=thoughts, as_it_is=True)
        ids += encoded.prompt + encoded.answer
        if len(ids) >= tokens:
            break
    chunks = chunks_of(ids[:tokens], bos=model.bos if model.adds_bos else None)
    if not chunks:
        raise UsageError("too few training examples for an importance matrix", where=str(examples))
    return chunks


def chunks_of(ids: Sequence[int], size: int = CHUNK, *, bos: int | None = None) -> list[list[int]]:
    """A stream of ids in pieces of `size`; a tail shorter than SMALLEST_BATCH is dropped.

    Where the model wants a BOS it takes the place of each piece's first token, as in llama.cpp's
    tool: without one, the first position's activations are outliers that no prompt shows.
    """
    pieces = [list(ids[at : at + size]) for at in range(0, len(ids), size)]
    first = [] if bos is None else [bos]
    return [first + piece[len(first) :] for piece in pieces if len(piece) >= SMALLEST_BATCH]
