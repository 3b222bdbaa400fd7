"""What rounding some tensors does to the answers, measured on a running model.

llama.cpp maps the file, so tensors that are written into it act in the next computation: a trial
costs the writing of its tensors and one pass over the answers, and no other file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

from tuneserve.arrays import Bytes, Floats
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import RowSource, encoded_rows
from tuneserve.convert.mixture.answers import Answer, common_beginning
from tuneserve.convert.slabs import made_in_order, one_blas_thread, row_spans
from tuneserve.convert.verify.logits import make_context, open_model
from tuneserve.divergence import divergence
from tuneserve.llama import LlamaContext, LlamaModel, TokenBatch, ggml

PROVENANCE = 1024
"""Bytes that a file's metadata says of its importance matrix in, at most."""
Encode = Callable[[str, int, int], Bytes]


class Trial:
    """A GGUF in 16 or 8 bits (of `sources`, unrounded) whose tensors can be tried in other types.

    The file is changed while a trial runs, and as it was after it. Use it as a context manager.
    """

    def __init__(
        self,
        path: Path,
        sources: Mapping[str, RowSource],
        importance: Mapping[str, Floats],
        *,
        threads: int,
    ) -> None:
        self._sources, self._importance, self._threads = sources, importance, threads
        self._file = TensorFile(path)
        self._model: LlamaModel = open_model(path)
        self._context: LlamaContext | None = None
        self._answers: Sequence[Answer] = ()
        self._reference: list[Floats] = []
        self._types: dict[str, str] = {}
        self.runs = 0

    @property
    def model(self) -> LlamaModel:
        return self._model

    @property
    def header_bytes(self) -> int:
        """Bytes before the tensors of a file that is made of this one."""
        return min(tensor.offset for tensor in self._file.tensors.values()) + PROVENANCE

    def compare_on(self, answers: Sequence[Answer]) -> None:
        """Measure from here on by these answers."""
        self._close_context()
        self._answers = answers
        longest = max(len(answer.ids) for answer in answers)
        self._context = make_context(self._model, longest, threads=self._threads)
        self._reference = self._logits()

    def harm(self, types: Mapping[str, str]) -> float:
        """Mean KL divergence, in nats, on the answers when these tensors have these types."""
        self._round(types)
        return divergence(self._reference, self._logits()).mean

    def half_back(self, before: Mapping[str, RowSource]) -> float:
        """The same when these tensors are halfway back to what they were before the tune."""

        def halfway(name: str, start: int, stop: int) -> Bytes:
            tuned, base = (s.rows(start, stop) for s in (self._sources[name], before[name]))
            return ggml.quantize(
                (tuned + base) * np.float32(0.5), self._file.type_name(name)
            ).reshape(-1)

        self._round({})
        self._types = dict.fromkeys(before, "halfway")
        self._write(list(before), halfway)
        return divergence(self._reference, self._logits()).mean

    def _round(self, types: Mapping[str, str]) -> None:
        """Bring the file's tensors into these types, all others back; those that have theirs from
        the last time stay as they are."""

        def made(name: str, start: int, stop: int) -> Bytes:
            own = self._file.type_name(name)
            if name not in types:
                return self._encoded(name, own, start, stop)
            data = self._encoded(name, types[name], start, stop)
            columns = self._sources[name].shape[-1]
            return ggml.quantize(ggml.dequantize(data, types[name], columns), own).reshape(-1)

        now, self._types = self._types, dict(types)
        self._write([name for name in {**now, **types} if now.get(name) != types.get(name)], made)

    def _encoded(self, name: str, kind: str, start: int, stop: int) -> Bytes:
        weights = self._importance.get(name) if kind != self._file.type_name(name) else None
        return encoded_rows(self._sources[name], kind, start, stop, weights)

    def _write(self, names: Sequence[str], encode: Encode) -> None:
        spans = ((n, *span) for n in names for span in row_spans(self._sources[n].shape))

        def place(span: tuple[str, int, int]) -> None:
            name, start, stop = span
            columns = self._sources[name].shape[-1]
            row = ggml.row_bytes(self._file.type_name(name), columns)
            data = encode(name, start, stop)
            os.pwrite(target, data.tobytes(), self._file.tensors[name].offset + start * row)

        target = os.open(self._file.path, os.O_WRONLY)
        try:
            with one_blas_thread(), ThreadPoolExecutor(self._threads) as pool:
                for _ in made_in_order(pool, place, spans, 2 * self._threads):
                    pass
        finally:
            os.close(target)

    def _logits(self) -> list[Floats]:
        assert self._context is not None
        self.runs += 1
        return list(answer_logits(self._context, self._answers))

    def _close_context(self) -> None:
        if self._context is not None:
            self._context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._round({})
        self._close_context()
        self._model.close()


def answer_logits(context: LlamaContext, answers: Sequence[Answer]) -> Iterator[Floats]:
    """The logits that each answer is drawn from, [tokens, n_vocab]; what all begin with is computed
    once."""
    beginning = len(common_beginning(answers))
    context.clear()
    kept = 0
    for answer in answers:
        outputs = len(answer.ids) - answer.start
        batch = TokenBatch(len(answer.ids))
        batch.add(answer.ids[kept:], kept, 0, outputs=outputs)
        context.decode(batch)
        yield context.batch_logits(outputs).copy()
        # What the next one begins with stays in the cache.
        kept = beginning if context.truncate(0, beginning) else 0
        if not kept:
            context.clear()
