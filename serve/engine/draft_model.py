"""A draft model: a small model of the same vocabulary, with a KV cache of its own.

It follows the texts of requests. What it has computed of one is the beginning of the request's
tokens, whatever becomes of the request: a preempted one keeps it as a cached prefix. Guesses that
it goes on from take cells until the next step, when it is known which of them the text has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel, TokenBatch, served_context
from tuneserve.llama.context import MAX_SEQUENCES, NoRoomError
from tuneserve.serve.engine.kv_cache import KVCacheManager, PrefixLimits
from tuneserve.serve.engine.step_costs import StepCosts
from tuneserve.settings import ServeSettings

logger = logging.getLogger("tuneserve.engine")

_TIMED_PROMPT = 64


class FollowedText:
    """A request's text, as far as the draft model has it: the first `computed` of `tokens`, a list
    that grows, and behind them the `guesses` that it was asked to go on from."""

    adapter: str | None = None  # The draft model guesses without adapters.

    def __init__(self, model: DraftModel, tokens: list[int]) -> None:
        self._model = model
        self.tokens = tokens
        self.sequence = -1
        self.computed = 0
        self.guesses: list[int] = []
        self.read = 0
        """Tokens that are known to be the draft model's too."""

    def release(self) -> None:
        """The request has ended, or waits: what was computed is a cached prefix."""
        self._model.release(self)


class DraftModel:
    """A loaded draft model. Belongs to the engine's thread; close it.

    It never fails a request: where its cache is full (`refused` counts it) or llama.cpp fails
    (then `usable` is False from there on), it has no guesses.
    """

    def __init__(self, path: Path, settings: ServeSettings, limits: PrefixLimits) -> None:
        """Raises TuneserveError, UsageError if it can't be loaded."""
        self._model = LlamaModel(
            path,
            gpu_layers=settings.draft_gpu_layers,
            split_mode="none",
            main_gpu=settings.main_gpu,
            mmap=settings.mmap,
            mlock=settings.mlock,
        )
        sequences = min(MAX_SEQUENCES, 2 * settings.slots + 8)
        try:
            self._context = served_context(
                self._model,
                settings,
                n_ctx=settings.ctx,
                n_batch=max(settings.batch, settings.slots),
                n_seq_max=sequences,
                n_outputs_max=sequences,
            )
        except TuneserveError:
            self._model.close()
            raise
        self.costs = StepCosts()
        self.n_vocab = self._model.n_vocab
        self.limit = min(self._context.cells, self._model.n_ctx_train)
        """Tokens that a text may have."""
        self.usable = True
        self.refused = 0
        self._batch = TokenBatch(self._context.n_batch)
        self._cache = KVCacheManager(
            self._context, cells=self._context.cells, sequences=sequences, limits=limits
        )
        self._followed: list[FollowedText] = []
        self.measure()

    def close(self) -> None:
        self._context.close()
        self._model.close()

    @property
    def cells_used(self) -> int:
        return self._cache.used_cells

    @property
    def cells(self) -> int:
        return self._context.cells

    def measure(self) -> None:
        """Time a few steps on a text of no importance, so that plans know what they cost."""
        first = _TIMED_PROMPT if self.costs.per_token is None else 1
        text = FollowedText(self, [0] * first)
        if not self.begin(text):
            return
        seconds = []
        for count in (first, 1, 1, 1):
            started = time.monotonic()
            text.tokens += [0] * (count == 1)
            self.decode([(text, [])])
            seconds.append(time.monotonic() - started)
        self._cache.free(text.sequence)
        self._forget(text)
        each = self.costs.per_token
        self.costs = StepCosts()
        self.costs.observe_prompt(1, seconds[0] / first if each is None else each)
        # What held one of them up says nothing about the next ones.
        self.costs.observe(1, min(seconds[1:]))

    def begin(self, text: FollowedText) -> bool:
        """Make sure that a text has a sequence; one that is new shares what is known of its
        beginning. False: it is too long, or has a token that the draft model does not know."""
        if len(text.tokens) >= self.limit or not self.usable:
            return False
        if text.read < len(text.tokens):
            if max(text.tokens[text.read :]) >= self.n_vocab:
                return False
            text.read = len(text.tokens)
        if text.sequence < 0:
            match = self._cache.match_prefix(None, text.tokens, self._followed)
            text.sequence, text.computed = self._cache.allocate(match)
            self._followed.append(text)
        return True

    def settle(self) -> None:
        """Keep the guesses that the texts have gone on with, and forget the others."""
        for text in self._followed:
            if text.guesses:
                self._settle(text)
        self._cache.trim()

    def _settle(self, text: FollowedText) -> None:
        came = text.tokens[text.computed :]
        right = 0
        while right < min(len(came), len(text.guesses)) and came[right] == text.guesses[right]:
            right += 1
        # The last token is computed again: its logits are what the next guess is drawn from.
        right = max(0, min(right, len(came) - 1))
        text.computed += right
        text.guesses = []
        self._cache.append(text.sequence, right)
        self._cache.keep(text.sequence, text.computed)

    def release(self, text: FollowedText) -> None:
        """Keep what was computed of a text as a cached prefix."""
        if text.sequence < 0:
            return
        if text.guesses:
            self._settle(text)
        self._cache.release(text.sequence, None, text.tokens[: text.computed])
        self._forget(text)

    def _forget(self, text: FollowedText) -> None:
        text.sequence, text.computed, text.guesses = -1, 0, []
        self._followed.remove(text)

    def behind(self, text: FollowedText) -> int:
        """Tokens that must be computed for the next guess. Texts are settled."""
        return len(text.tokens) - text.computed

    def catch_up(self, text: FollowedText, most: int) -> None:
        """Compute at most so many tokens of a text, but not its last one."""
        most = min(most, self.behind(text) - 1)
        while most > 0:
            count = min(most, self._batch.size)
            new = text.tokens[text.computed : text.computed + count]
            if not self._compute([(text, new)], outputs=0):
                return
            most -= count

    def decode(self, wanted: Sequence[tuple[FollowedText, Sequence[int]]]) -> Floats | None:
        """Logits of what comes behind each text and the guesses for it, [texts, n_vocab], in a
        buffer valid until the next call; None if it can't be computed. Texts are settled, or the
        guesses are those of the last call and one more."""
        parts = []
        for text, guesses in wanted:
            new = guesses[len(text.guesses) :]
            parts.append((text, new if guesses else text.tokens[text.computed :]))
        if not self._compute(parts, outputs=1, guesses=bool(wanted[0][1])):
            return None
        return self._context.batch_logits(len(parts))

    def _compute(
        self,
        parts: Sequence[tuple[FollowedText, Sequence[int]]],
        *,
        outputs: int,
        guesses: bool = False,
    ) -> bool:
        """Decode tokens behind what the texts have. Guesses take free cells, tokens of the text
        those of cached prefixes too."""
        batch = self._batch
        batch.clear()
        count = sum(len(tokens) for _, tokens in parts)
        held = sum(len(text.guesses) for text in self._followed)
        fits = count <= batch.size and all(
            len(text.tokens) + len(text.guesses) < self.limit for text, _ in parts
        )
        if not self.usable or not fits or not self._cache.make_room(count + held):
            self.refused += fits
            return False
        for text, tokens in parts:
            place = text.computed + len(text.guesses)
            batch.add(tokens, place, text.sequence, outputs=outputs)
        started = time.monotonic()
        try:
            self._context.decode(batch)
            self._context.synchronize()
        except NoRoomError:
            self.refused += 1
            return False
        except TuneserveError:
            logger.exception("the draft model failed, and is not used any more")
            self.usable = False
            return False
        self._observe(len(parts), count, time.monotonic() - started)
        for text, tokens in parts:
            if guesses:
                text.guesses += tokens
            else:
                text.computed += len(tokens)
                self._cache.append(text.sequence, len(tokens))
        return True

    def _observe(self, texts: int, tokens: int, seconds: float) -> None:
        if tokens > 16 * texts:
            self.costs.observe_prompt(tokens, seconds)
        else:
            self.costs.observe(tokens, seconds)
