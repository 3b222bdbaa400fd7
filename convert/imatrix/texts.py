"""What an importance matrix is measured on: the user's own training examples."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from tuneserve.convert.imatrix.collector import SMALLEST_BATCH
from tuneserve.convert.imatrix.matrix import CHUNK
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel
from tuneserve.prompt import encode_messages, encode_text, template_of

SEED = 0


def training_chunks(model: LlamaModel, examples: Path, tokens: int) -> list[list[int]]:
    """About `tokens` tokens of the examples, drawn from all of the file and rendered as the model
    sees them, in chunks. Raises UsageError if there is less than SMALLEST_BATCH of them."""
    template = template_of(model)
    ids: list[int] = []
    for messages in _shuffled(examples):
        if len(messages) == 1:  # a plain text
            ids += encode_text(model, messages[0]["content"])
        else:
            ids += encode_messages(model, template, messages, add_generation_prompt=False)
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


def _shuffled(examples: Path) -> Iterator[list[dict[str, str]]]:
    """The examples' messages in an order that is random, but always the same: files are often
    sorted by source or label."""
    with examples.open("rb") as file:
        starts = [0]
        starts += [file.tell() for _ in iter(file.readline, b"")]
        starts.pop()
        random.Random(SEED).shuffle(starts)  # noqa: S311 - not for secrets
        for start in starts:
            file.seek(start)
            yield json.loads(file.readline())["messages"]
