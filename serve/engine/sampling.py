"""Choosing the next token of one answer: what it was changed by, its grammar and its thoughts.

logit_bias and penalties change the row of logits (`adjustments`), filters and temperature say what
may be drawn of it (`drawing`). Of a grammar the drawn token alone is checked, which is cheap; only
one that it forbids costs a second draw, from the tokens that it allows. To find these takes 35 µs
(vocabulary of 49,152), for a fifth of the tokens of a small model's JSON: too little to do it ahead
of time for every token.
"""

from __future__ import annotations

import secrets
import time
from collections import deque

import numpy as np
import numpy.typing as npt

from tuneserve.chat.thinking import CLOSE_THOUGHTS
from tuneserve.llama import LlamaModel
from tuneserve.serve.engine.adjustments import Adjustments
from tuneserve.serve.engine.drawing import draw
from tuneserve.serve.engine.proposals import Proposal, draw_with
from tuneserve.serve.engine.row_reading import NOTHING, Kind, Read, first_read
from tuneserve.serve.engine.thinking import Stage, ThinkingState
from tuneserve.serve.engine.types import GrammarFailedError, SamplingParams
from tuneserve.serve.engine.weights import Row

SECONDS_AHEAD = 0.5
SECONDS_A_TOKEN = 0.005
"""Processor time of a token that a grammar bounds: everyone else's step waits for it. A schema
takes 0.1 ms a token; one that is made to be slow has SECONDS_AHEAD more in all."""


class TokenSampler:
    """Chooses the tokens of one answer, each from one row of logits. Only `sample` changes its
    state, by one token a call. Any thread may call it, one at a time."""

    def __init__(self, model: LlamaModel, sampling: SamplingParams) -> None:
        self._model = model
        self._sampling = sampling
        self._stages = ThinkingState(
            sampling.thoughts, mark=sampling.grammar_after, budget=sampling.thinking_budget
        )
        self._reads_text = sampling.grammar is not None or sampling.thinking_budget is not None
        self._grammar = None if sampling.grammar is None else sampling.grammar.deep_copy()
        self._mask = np.zeros(-(-model.n_vocab // 32), np.uint32)
        self._seconds_left = SECONDS_AHEAD
        self._forced: deque[int] = deque()
        self._random = np.random.default_rng(draw_seed(sampling.seed))
        self._adjustments: Adjustments | None = None
        if sampling.logit_bias or sampling.penalizes:
            self._adjustments = Adjustments(sampling)

    @property
    def first_read(self) -> Kind | None:
        """What of a row `sample` can use, if it is read before; None: nothing."""
        if self._adjustments or self._grammar or self._reads_text:
            return None
        return first_read(self._sampling)

    def sample(self, row: Row, proposal: Proposal | None = None, read: Read = NOTHING) -> int:
        """The next token, from its logits [n_vocab]. They are written to, but the same again when
        the call returns. A `proposal` is chosen as often as the distribution allows; `read` is what
        `first_read` says, if it is there already. Raises GrammarFailedError, LogitsError."""
        if read is not NOTHING and proposal is None:
            return draw(row, self._sampling, self._random, read)
        if self._adjustments is None:
            return self._next(row, proposal)
        with self._adjustments.applied_to(row):
            token = self._next(row, proposal)
        self._adjustments.accept(token)
        return token

    def _next(self, row: Row, proposal: Proposal | None) -> int:
        if proposal is not None and takes_proposals(self._sampling):
            return draw_with(row, self._sampling, self._random, proposal)
        if self._forced:
            token = self._forced.popleft()
        elif self._grammar is None:
            token = self._choose(row)
        elif self._stages.bounded:
            return self._choose_by_grammar(row)
        elif self._stages.bounded_unless_thought:
            token = self._choose_first(row)
        else:
            token = self._cut(self._choose(row))
        if (
            self._reads_text
            and not self._stages.bounded
            and self._stages.see(self._model.token_bytes(token))
        ):
            self._force(f"\n{CLOSE_THOUGHTS}\n\n")
        return token

    def _choose(self, row: Row, allowed: npt.NDArray[np.intp] | None = None) -> int:
        """A token, of the `allowed` ones if they are given."""
        if allowed is None:
            return draw(row, self._sampling, self._random)
        return int(allowed[draw(row[allowed], self._sampling, self._random)])

    def _choose_first(self, row: Row) -> int:
        """The first token of an answer with a grammar that may begin with thoughts: one that opens
        them, or else one that the grammar allows."""
        token = self._choose(row)
        rest = self._stages.begins_thought(self._model.token_bytes(token))
        if rest is None or self._allows(token):
            self._stages.enter(Stage.ANSWER)
            return self._choose_by_grammar(row)
        self._force(rest)
        return token

    def _cut(self, token: int) -> int:
        """Replace a token whose text goes on after the mark by tokens whose text ends with the
        mark."""
        piece = self._model.token_bytes(token)
        cut = self._stages.cut(piece)
        if len(cut) == len(piece):
            return token
        self._force(cut.decode("utf-8", "ignore"))
        return self._forced.popleft()

    def _force(self, text: str) -> None:
        if not self._forced:
            self._forced.extend(self._model.tokenize(text, parse_special=True))

    def _choose_by_grammar(self, row: Row) -> int:
        assert self._grammar is not None
        began = time.thread_time()
        token = self._choose(row)
        if not self._allows(token):
            token = self._choose(row, self._allowed_tokens())
        if not self._model.is_end(token) and not self._grammar.consume_token(token):
            raise self._failed(self._grammar.get_error())
        self._seconds_left += SECONDS_A_TOKEN - (time.thread_time() - began)
        if self._seconds_left < 0:
            raise self._failed("following it takes longer than its share of a step")
        return token

    def _allows(self, token: int) -> bool:
        """Does the grammar allow this token? End tokens are allowed where the answer is
        complete."""
        assert self._grammar is not None
        if self._model.is_end(token):
            return self._grammar.is_accepting()
        return self._grammar.validate_tokens([token]) == 1

    def _allowed_tokens(self) -> npt.NDArray[np.intp]:
        assert self._grammar is not None
        self._grammar.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._grammar.is_error():
            raise self._failed(self._grammar.get_error())
        count = self._model.n_vocab
        bits = np.unpackbits(self._mask.view(np.uint8), count=count, bitorder="little")
        bits[list(self._model.end_tokens)] = self._grammar.is_accepting()
        allowed = np.flatnonzero(bits.view(np.bool_))  # of bytes it would take ten times as long
        if not len(allowed):
            raise self._failed("no token of the vocabulary fits")
        return allowed

    @staticmethod
    def _failed(reason: str) -> GrammarFailedError:
        cause = reason.partition("\n")[0]
        return GrammarFailedError(f"the answer can't go on by its grammar: {cause}")


def takes_proposals(sampling: SamplingParams) -> bool:
    """Can a draft model's proposals be kept by `draw_with`? Not where the text has a say in what is
    drawn, by a grammar or a budget of thoughts; and the most probable token is not drawn."""
    return (
        sampling.temperature > 0.0 and sampling.grammar is None and sampling.thinking_budget is None
    )


def draw_seed(seed: int | None) -> int:
    """A seed from any integer; None draws one."""
    return secrets.randbits(64) if seed is None else seed % 2**64
