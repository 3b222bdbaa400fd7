"""Held-out prompts that share wording with a training example.

A shared n-gram of words is a sign that the answer may be remembered rather than found. Wording that
many examples have in common (the instruction) says nothing and is taken out first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from tuneserve.bench.compare.analysis import compare_accuracy
from tuneserve.bench.compare.pairs import Pair
from tuneserve.bench.compare.results import Contamination
from tuneserve.bench.tasks.scorers import normalise
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings

WORDS = 8
BOILERPLATE_WORDS = 4
COMMON_SHARE = 0.05  # of all examples, beside three at the least

NGram = tuple[str, ...]


def check_contamination(
    pairs: Sequence[Pair], training: Sequence[Example], settings: BenchSettings
) -> Contamination:
    """Find the held-out prompts that share an n-gram of WORDS words with a training example."""
    found = overlapping([pair.example for pair in pairs], training)
    clean = [pair for pair in pairs if pair.example.id not in found]
    without = compare_accuracy(clean, settings).difference if found and clean else None
    return Contamination(WORDS, sorted(found), without)


def overlapping(held_out: Sequence[Example], training: Sequence[Example]) -> set[str]:
    """Ids of the held-out examples that share an n-gram outside the boilerplate with training."""
    texts = [_words(example) for example in (*training, *held_out)]
    frequency = Counter(gram for words in texts for gram in set(_ngrams(words, BOILERPLATE_WORDS)))
    least = max(3.0, COMMON_SHARE * len(texts))
    boilerplate = {gram for gram, count in frequency.items() if count >= least}
    seen = {gram for example in training for gram in _own_ngrams(_words(example), boilerplate)}
    return {
        example.id
        for example in held_out
        if not seen.isdisjoint(_own_ngrams(_words(example), boilerplate))
    }


def _words(example: Example) -> list[str]:
    """The words of the prompt, system prompt left out."""
    return [
        word
        for message in example.prompt
        if message["role"] != "system"
        for word in normalise(message.get("content") or "").split()
    ]


def _own_ngrams(words: list[str], boilerplate: set[NGram]) -> set[NGram]:
    """N-grams of WORDS words outside the boilerplate; where all that is left is shorter, that."""
    common = [False] * len(words)
    for first, gram in enumerate(_ngrams(words, BOILERPLATE_WORDS)):
        if gram in boilerplate:
            common[first : first + BOILERPLATE_WORDS] = [True] * BOILERPLATE_WORDS
    own = [
        [word for word, _ in run]
        for is_common, run in groupby(zip(words, common, strict=True), key=itemgetter(1))
        if not is_common
    ]
    if sum(map(len, own)) <= WORDS:
        return {tuple(word for part in own for word in part)} - {()}
    return {gram for part in own for gram in _ngrams(part, WORDS)}


def _ngrams(words: list[str], size: int) -> list[NGram]:
    return [tuple(words[first : first + size]) for first in range(len(words) - size + 1)]
