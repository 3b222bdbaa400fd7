"""Held-out prompts that share wording with a training example.

A shared run of words is a sign that the answer may be remembered rather than found. Runs that many
training examples have in common (the instruction) say nothing and are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.analysis import compare_accuracy
from bench.examples import Example
from bench.results import Contamination, Pair
from bench.scoring import normalise
from tuneserve.settings import BenchSettings

WORDS = 8
COMMON_SHARE = 0.02  # a run in more training examples than this (and than two) is boilerplate

Run = tuple[str, ...]


def check_contamination(
    pairs: Sequence[Pair], training: Sequence[Example], settings: BenchSettings
) -> Contamination:
    """Find the held-out prompts that share a run of WORDS words with a training example."""
    found = overlapping([pair.example for pair in pairs], training)
    clean = [pair for pair in pairs if pair.example.id not in found]
    without = None
    if found and clean:
        without = compare_accuracy(clean, settings).difference
    return Contamination(WORDS, sorted(found), without)


def overlapping(held_out: Sequence[Example], training: Sequence[Example]) -> set[str]:
    """Ids of the held-out examples with a telling run of words in common with training."""
    seen = Counter(run for example in training for run in _runs(example))
    most = max(2.0, COMMON_SHARE * len(training))
    telling = {run for run, count in seen.items() if count <= most}
    return {example.id for example in held_out if not telling.isdisjoint(_runs(example))}


def _runs(example: Example) -> set[Run]:
    """All runs of WORDS words of the prompt's user messages; a shorter text is one run."""
    words = [
        word
        for message in example.prompt
        if message["role"] != "system"
        for word in normalise(message["content"]).split()
    ]
    if len(words) <= WORDS:
        return {tuple(words)}
    return {tuple(words[first : first + WORDS]) for first in range(len(words) - WORDS + 1)}
