"""What goes into the engine and what comes out: plain values, no llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tuneserve.chat.thinking import Thoughts
from tuneserve.errors import TuneserveError
from tuneserve.serve.engine.acceptance import Source

if TYPE_CHECKING:
    from llguidance import LLMatcher

FinishReason = Literal["stop", "length", "cancelled"]


class EngineError(TuneserveError):
    """The engine can't go on with a request (llama.cpp failed, or the engine is closed)."""


class GrammarFailedError(EngineError):
    """An answer can't go on by its grammar: it has become too complex, or no token fits."""


class NotCausalError(EngineError):
    """The model is served for embeddings alone: its tokens attend to later ones."""


class UnknownAdapterError(EngineError):
    """A request names an adapter that is not loaded (any more)."""


class PromptTooLongError(TuneserveError):
    """A prompt does not fit the context; carries both figures, in tokens. `least`: it has so many
    or more."""

    def __init__(self, prompt_tokens: int, limit: int, *, least: bool = False) -> None:
        or_more = " or more" * least
        super().__init__(
            f"the prompt has {prompt_tokens} tokens{or_more}, and the context of {limit} must hold "
            "it and at least one token of the answer"
        )
        self.tokens = prompt_tokens
        self.limit = limit


class TextTooLongError(TuneserveError):
    """A text is longer than an embedding takes; carries both figures, in tokens. `least`: it has
    so many or more."""

    def __init__(self, tokens: int, limit: int, *, least: bool = False) -> None:
        or_more = " or more" * least
        super().__init__(
            f"a text has {tokens} tokens{or_more}, and an embedding takes at most {limit}"
        )
        self.tokens = tokens
        self.limit = limit


class QueueFullError(TuneserveError):
    """More requests are waiting than the settings allow."""


class UnavailableError(EngineError):
    """The engine takes no request now: it is shutting down, or too busy for too long."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when an answer ends.

    `temperature` 0 takes the most probable token. `top_k` 0, `top_p` 1 and `min_p` 0 switch
    these filters off. `seed` None draws one. `stop` strings end the answer and are not part of
    it. `max_tokens` None means until the end token or the end of the context. `logprobs` is the
    number of alternatives reported for each token; None reports nothing. The penalties are
    OpenAI's (subtracted from a token's logit: presence once, frequency per occurrence) and
    llama.cpp's `repeat_penalty` (a divisor; 1 is off), over the last `penalty_window` tokens.

    `grammar`, compiled and at its beginning (answers follow copies of it), bounds the answer, but
    never its `thoughts`; with `grammar_after` only what follows the first such mark in it.
    `thinking_budget` is the number of tokens after which thoughts are closed. `shown` are control
    tokens that are part of the answer's text, as others are not.

    `stop_tokens` end the answer as end tokens do; with `ignore_end` end tokens are not chosen.
    `max_tokens` 0 computes the prompt alone. `prompt_logprobs` is the number of alternatives
    reported for each token of the prompt but the first; None reports nothing. `expected` is an
    answer whose tokens' log probabilities are reported beside the one that is given; only a steady
    engine takes it (see `Engine.most_expected`).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    penalty_window: int = 1024
    grammar: LLMatcher | None = None
    grammar_after: str | None = None
    thoughts: Thoughts = "none"
    thinking_budget: int | None = None
    shown: frozenset[int] = frozenset()
    stop_tokens: frozenset[int] = frozenset()
    ignore_end: bool = False
    prompt_logprobs: int | None = None
    expected: tuple[int, ...] = ()

    @property
    def penalizes(self) -> bool:
        penalties = (self.presence_penalty, self.frequency_penalty, self.repeat_penalty)
        return penalties != (0.0, 0.0, 1.0)

    @property
    def is_plainly_greedy(self) -> bool:
        """Is each token the most probable one of its row, and nothing else asked about it?"""
        changed = self.logit_bias or self.penalizes or self.grammar is not None
        more = self.thinking_budget is not None or self.logprobs is not None
        return self.temperature <= 0.0 and not changed and not more


GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithm of a token's probability before temperature and filters, with the most
    probable alternatives, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to an answer. `text` lags behind `tokens` by an unfinished UTF-8
    character or a possible beginning of a stop string."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: waiting for a slot, computing the prompt (until the first token), generating the
    rest."""

    queue: float
    prompt: float
    generation: float


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer. `tokens` are the generated ids, the end token included where one ended
    it; `text` has neither it nor the stop string, which `stopped_by` names. `cached_tokens` of the
    prompt came from the prefix cache. `prompt_logprobs` are those of the prompt's tokens but the
    first, `expected_logprobs` those of the expected answer's tokens."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    expected_logprobs: tuple[float, ...] = ()
    stopped_by: str | None = None

    @property
    def was_cut(self) -> bool:
        """Did it end before the model, or a stop string, had ended it?"""
        return self.finish_reason != "stop"


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is doing: requests and the KV cache's cells now; preemptions, steps and tokens
    guessed (`drafted`) and guessed right (`accepted`) so far, by their source ('prompt', 'draft').

    Of the draft model, if there is one: its cells, how often its cache had no room for guesses
    (`draft_refused`), and whether it works (`draft_usable`)."""

    running: int
    waiting: int
    slots: int
    cells_used: int
    cells: int
    cached_prefixes: int
    preemptions: int
    steps: int
    drafted: Mapping[Source, int] = field(default_factory=dict)
    accepted: Mapping[Source, int] = field(default_factory=dict)
    draft_cells_used: int = 0
    draft_cells: int = 0
    draft_refused: int = 0
    draft_usable: bool = False


Event = Delta | Completion | EngineError
