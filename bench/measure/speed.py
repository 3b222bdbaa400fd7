"""Tokens per second of one model: reading a prompt, and generating one stream.

Like llama-bench: a warm-up, then several repetitions, mean and standard deviation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tuneserve.llama import LlamaContext, TokenBatch

PROMPT_TOKENS = 512
GENERATED_TOKENS = 64


@dataclass(frozen=True)
class Rate:
    """Tokens per second: mean and standard deviation of the repetitions."""

    mean: float
    deviation: float
    tokens: int
    repetitions: int


@dataclass(frozen=True)
class Speed:
    """Prompt processing and single-stream generation."""

    prompt: Rate
    generation: Rate


def measure_speed(
    context: LlamaContext,
    text: Sequence[int],
    *,
    repetitions: int,
    generated: int = GENERATED_TOKENS,
) -> Speed:
    """Time `context` on the token ids `text` (real text: the benchmark's own prompts).

    Uses up to PROMPT_TOKENS of them, repeated if there are fewer, as far as one batch and the
    context go. Raises ValueError for fewer than two repetitions, which have no deviation.
    """
    if repetitions < 2:
        raise ValueError("a deviation needs two repetitions")
    length = min(PROMPT_TOKENS, context.n_ctx - generated, context.n_batch)
    prompt = [text[place % len(text)] for place in range(length)]
    _one_repetition(context, prompt, generated)
    timings = [_one_repetition(context, prompt, generated) for _ in range(repetitions)]
    return Speed(
        prompt=_rate(length, [reading for reading, _ in timings]),
        generation=_rate(generated, [writing for _, writing in timings]),
    )


def _one_repetition(
    context: LlamaContext, prompt: list[int], generated: int
) -> tuple[float, float]:
    """Seconds to read the prompt, and to generate so many tokens after it, greedily."""
    context.clear()
    context.synchronize()
    batch = TokenBatch(context.n_batch)

    def following(tokens: list[int], position: int) -> int:
        batch.clear()
        last = batch.add(tokens, position, 0, outputs=1)
        context.decode(batch)
        return int(context.token_logits(last).argmax())

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
