"""Held-out prompts that share wording with a training example.

A shared run of words is a sign that the answer may be remembered rather than found. Wording that
many examples have in common (the instruction) says nothing and is taken out first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tuneserve.bench.compare.analysis import compare_accuracy
from tuneserve.bench.compare.results import Contamination, Pair
from tuneserve.bench.tasks.examples import Example
from tuneserve.bench.tasks.scorers import normalise
from tuneserve.settings import BenchSettings

WORDS = 8
BOILERPLATE_WORDS = 4
COMMON_SHARE = 0.05  # of all examples, beside three at the least

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
    texts = [_words(example) for example in (*training, *held_out)]
    frequency = Counter(run for words in texts for run in set(_windows(words, BOILERPLATE_WORDS)))
    least = max(3.0, COMMON_SHARE * len(texts))
    boilerplate = {run for run, count in frequency.items() if count >= least}
    seen = {run for example in training for run in _telling_runs(_words(example), boilerplate)}
    return {
        example.id
        for example in held_out
        if not seen.isdisjoint(_telling_runs(_words(example), boilerplate))
    }


def _words(example: Example) -> list[str]:
    """The words of the prompt, system prompt left out."""
    return [
        word
        for message in example.prompt
        if message["role"] != "system"
        for word in normalise(message.get("content") or "").split()
    ]


def _telling_runs(words: list[str], boilerplate: set[Run]) -> set[Run]:
    """Runs of WORDS words between the boilerplate; where all that is left is shorter, that."""
    common = [False] * len(words)
    for first, run in enumerate(_windows(words, BOILERPLATE_WORDS)):
        if run in boilerplate:
            common[first : first + BOILERPLATE_WORDS] = [True] * BOILERPLATE_WORDS
    parts: list[list[str]] = [[]]
    for word, is_common in zip(words, common, strict=True):
        if is_common:
            parts.append([])
        else:
            parts[-1].append(word)
    own = [part for part in parts if part]
    if sum(map(len, own)) <= WORDS:
        return {tuple(word for part in own for word in part)} - {()}
    return {run for part in own for run in _windows(part, WORDS)}


def _windows(words: list[str], size: int) -> list[Run]:
    return [tuple(words[first : first + size]) for first in range(len(words) - size + 1)]
