"""Tokens per second of several models: reading a prompt, and generating one stream.

A machine is quick in one hour and busy in the next. So the models are timed in one sitting and in
turn, forth and back: what slows the machine down slows all of them. What was timed in another
sitting is not used.

A warm-up, then several repetitions, as llama-bench has it; but tokens are drawn as the server draws
them for a request that says nothing (temperature 1, no filter), since drawing takes time too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from statistics import fmean, stdev

from tuneserve.bench.stats.intervals import student_quantile
from tuneserve.chat.prompt import EncodedExample
from tuneserve.llama import LlamaContext, TokenBatch

PROMPT_TOKENS = 256
GENERATED_TOKENS = 32


def speed_text(parts: Iterable[Iterable[EncodedExample]]) -> list[int]:
    """What is read when speeds are measured: how the prompts begin, as token ids."""
    prompts = (item.prompt for part in parts for item in part)
    return list(islice(chain.from_iterable(prompts), PROMPT_TOKENS))


@dataclass(frozen=True)
class Rate:
    """Tokens per second: mean and standard deviation of the repetitions."""

    mean: float
    deviation: float
    tokens: int
    repetitions: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """Student's interval of the mean: repetitions are few, and about normal."""
        half = student_quantile(confidence, self.repetitions - 1)
        half *= self.deviation / math.sqrt(self.repetitions)
        return max(0.0, self.mean - half), self.mean + half


@dataclass(frozen=True)
class Speed:
    """Prompt processing and single-stream generation."""

    prompt: Rate
    generation: Rate


@dataclass
class Timings:
    """Seconds that one model took to load (the last time), and in each repetition to read a prompt
    of `prompt` tokens and to generate `generated` tokens behind it."""

    prompt: int
    generated: int
    load_seconds: float = 0.0
    reading: list[float] = field(default_factory=list)
    writing: list[float] = field(default_factory=list)

    @property
    def speed(self) -> Speed:
        return Speed(_rate(self.prompt, self.reading), _rate(self.generated, self.writing))


def turns(names: Sequence[str], repetitions: int) -> list[tuple[str, int]]:
    """Whose turn it is, for how many repetitions: there and back, so that a machine that gets
    slower or faster steadily does so for all. Who is last has both turns at once. Raises ValueError
    for fewer than two repetitions, which have no deviation."""
    if repetitions < 2:
        raise ValueError("a deviation needs two repetitions")
    *others, last = names
    first = (repetitions + 1) // 2
    return [
        *((name, first) for name in others),
        (last, repetitions),
        *((name, repetitions - first) for name in reversed(others)),
    ]


def time_repetitions(
    context: LlamaContext,
    text: Sequence[int],
    repetitions: int,
    *,
    generated: int = GENERATED_TOKENS,
    into: Timings | None = None,
) -> Timings:
    """Time `context` on the token ids `text` (real text: the benchmark's own prompts), after a
    warm-up; with `into` further repetitions of an earlier turn.

    Uses up to PROMPT_TOKENS of them, repeated if there are fewer, as far as one batch and the
    context go.
    """
    length = min(PROMPT_TOKENS, context.n_ctx - generated, context.n_batch)
    prompt = [text[place % len(text)] for place in range(length)]
    found = into or Timings(length, generated)
    _one_repetition(context, prompt, generated)
    for _ in range(repetitions):
        reading, writing = _one_repetition(context, prompt, generated)
        found.reading.append(reading)
        found.writing.append(writing)
    return found


def _one_repetition(
    context: LlamaContext, prompt: list[int], generated: int
) -> tuple[float, float]:
    """Seconds to read the prompt, and to generate so many tokens after it."""
    from tuneserve.serve.engine import SamplingParams
    from tuneserve.serve.engine.sampling import TokenSampler

    sampler = TokenSampler(context.model, SamplingParams(seed=0))
    context.clear()
    context.synchronize()
    batch = TokenBatch(context.n_batch)

    def following(tokens: list[int], position: int) -> int:
        batch.clear()
        last = batch.add(tokens, position, 0, outputs=1)
        context.decode(batch)
        return sampler.sample(context.token_logits(last))

    started = time.perf_counter()
    token = following(prompt, 0)
    read = time.perf_counter()
    for step in range(generated):
        # An end token is generated through, so that every repetition does the same work.
        token = following([token], len(prompt) + step)
    written = time.perf_counter()
    return read - started, written - read


def _rate(tokens: int, seconds: list[float]) -> Rate:
    rates = [tokens / duration for duration in seconds]
    return Rate(fmean(rates), stdev(rates), tokens, len(rates))
