"""Drawing the tokens of a step from its rows of logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tuneserve.arrays import Floats
from tuneserve.llama import LlamaModel
from tuneserve.serve.engine.drawing import HEAD_SHARE, most_probable, token_logprob
from tuneserve.serve.engine.request import Request
from tuneserve.serve.engine.row_reading import NOTHING, Kind, Read, read_rows
from tuneserve.serve.engine.row_threads import RowThreads
from tuneserve.serve.engine.sampling import TokenSampler
from tuneserve.serve.engine.types import GrammarFailedError, TokenLogprob
from tuneserve.serve.engine.weights import Blocks, LogitsError, blocks_of, empty_blocks

Drawn = tuple[int, TokenLogprob | None] | GrammarFailedError | LogitsError
"""A token of an answer, or why there is none: the request's own grammar or logits."""

TOGETHER_LOGITS = 1 << 19
"""Logits of neighbours that are read in one call: enough that other threads get on meanwhile, and
few enough for a core's cache."""


@dataclass(slots=True)
class _Group:
    """Requests whose rows are read together: one for the next token of each and one for each guess
    of its draft, which are right while the guesses before them are. `greedy`: their most probable
    tokens are read, else what `kind` says, if anything; `blocks`: room for weights."""

    greedy: bool
    kind: Kind | None
    requests: Sequence[Request]
    logits: Floats
    blocks: Blocks
    best: list[int | None] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    def read(self) -> None:
        """What takes long. Called in several threads."""
        if self.greedy:
            self.best = most_probable(self.logits)
        elif self.kind is None:
            self.reads = [NOTHING] * len(self.logits)
        else:
            head = HEAD_SHARE if any(one.sampling.top_p < 1.0 for one in self.requests) else 0.0
            self.reads = read_rows(self.logits, self.kind, self.blocks, head)


class RowDrawer:
    """Draws every answer's next tokens, each from its own rows. Close it.

    What reads whole rows is done for several at once, in threads: NumPy lets go of the interpreter
    meanwhile. What is left to do for a row is short, and the caller's: threads that wait for the
    interpreter after each short operation gain nothing.
    """

    def __init__(self, model: LlamaModel, threads: int) -> None:
        self._model = model
        self._threads = RowThreads(threads)
        self._room: npt.NDArray[np.float32] = np.empty(0, np.float32)

    def close(self) -> None:
        self._threads.close()

    def draw(self, requests: Sequence[Request], logits: Floats) -> list[list[Drawn]]:
        """Each request's next tokens, at least one; `logits` are their rows in the same order."""
        groups = list(self._groups(requests, logits))
        self._threads.map(_Group.read, groups, logits=logits.size)
        return [tokens for group in groups for tokens in self._drawn(group)]

    def _drawn(self, group: _Group) -> Iterator[list[Drawn]]:
        first = 0
        for request in group.requests:
            own = slice(first, first + 1 + len(request.draft))
            first = own.stop
            if group.greedy:
                yield self._follow(request, group.best[own])
            else:
                yield self._sample(request, group.logits[own], group.reads[own])

    def _follow(self, request: Request, best: Sequence[int | None]) -> list[Drawn]:
        """The most probable tokens, while the guesses are right."""
        found: list[Drawn] = []
        for token, guess in zip(best, (*request.draft, None), strict=True):
            if token is None:
                return [*found, LogitsError()]
            found.append((token, None))
            if token != guess or self._model.is_end(token):
                break
        return found

    def _sample(self, request: Request, rows: Floats, reads: Sequence[Read]) -> list[Drawn]:
        sampler = self._sampler(request)
        wanted = request.sampling.logprobs
        found: list[Drawn] = []
        guesses = (*request.draft, None)
        for place, (row, own, guess) in enumerate(zip(rows, reads, guesses, strict=True)):
            proposal = request.drafter.proposal(place) if request.drafter else None
            try:
                token = sampler.sample(row, proposal, own)
                logprob = None if wanted is None else token_logprob(row, token, wanted)
            except (GrammarFailedError, LogitsError) as error:
                found.append(error)
                break
            found.append((token, logprob))
            if token != guess or self._model.is_end(token):
                break
        return found

    def _sampler(self, request: Request) -> TokenSampler:
        if request.sampler is None:
            request.sampler = TokenSampler(self._model, request.sampling)
        return request.sampler

    def _groups(self, requests: Sequence[Request], logits: Floats) -> Iterator[_Group]:
        """Neighbours of one kind, of TOGETHER_LOGITS together or one's own rows."""
        most = max(1, TOGETHER_LOGITS // logits.shape[1])
        members: list[Request] = []
        kind: tuple[bool, Kind | None] = (False, None)
        first = end = 0
        for request in requests:
            count = 1 + len(request.draft)
            own = request.is_plainly_greedy, self._kind(request, len(logits))
            if members and (own != kind or end + count - first > most):
                yield self._group(*kind, members, logits, first, end)
                members, first = [], end
            members.append(request)
            kind, end = own, end + count
        if members:
            yield self._group(*kind, members, logits, first, end)

    def _group(
        self,
        greedy: bool,
        kind: Kind | None,
        members: list[Request],
        logits: Floats,
        first: int,
        end: int,
    ) -> _Group:
        rows, size = logits.shape
        blocks = empty_blocks(0, size)
        if kind is not None and kind[0] == "weights":
            each = blocks.shape[1] * blocks.shape[2]
            if len(self._room) < rows * each:
                self._room = empty_blocks(rows, size).reshape(-1)
            blocks = blocks_of(self._room[first * each :], end - first, size)
        return _Group(greedy, kind, members, logits[first:end], blocks)

    def _kind(self, request: Request, rows: int) -> Kind | None:
        # One row alone is read when it is drawn from.
        alone = rows == 1 or request.is_plainly_greedy
        return None if alone else self._sampler(request).first_read
