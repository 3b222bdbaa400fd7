"""What makes figures say less than they seem to: sentences that stand in the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuneserve.bench.compare.analysis import (
    bootstrap_of,
    count_answers,
    decide,
    responses,
    scores_of,
)
from tuneserve.bench.compare.pairs import Pair
from tuneserve.bench.compare.results import AccuracyComparison, AnswerCounts
from tuneserve.bench.measure.work import NOISE_FLOOR
from tuneserve.bench.stats.ranking import Ranking, rank
from tuneserve.console import listed, percent
from tuneserve.settings import BenchSettings

NOTABLE = 0.02
"""Share of a model's answers from which on it is told that they were cut, empty or the like."""
FLOOR, CEILING = 0.02, 0.98
"""Mean scores below and above which both models' say little about their difference."""
ENDINGS = {
    "failed": "missing: their prompts got none, and count as wrong",
    "length_limited": "cut at max_tokens",
    "cut_off_thoughts": "cut amid the thoughts",
    "empty": "empty",
    "nothing_found": "without what the task asks for",
    "unscored": "counted as wrong because the scorer failed on them",
}
"""Counts (`AnswerCounts`) that make a score say less, and what is said of such answers."""


def caution(
    accuracy: AccuracyComparison,
    counts: Mapping[str, AnswerCounts],
    max_tokens: int,
    confidence: float = 0.95,
    p: float | None = None,
) -> list[str]:
    """What makes both models' scores say less than they seem to, as sentences that follow a colon:
    answers cut off, empty or not to be read, a task that both fail or both can do. `counts`: of
    'base' and 'tuned'; `p`: the one that decides, where it is adjusted."""
    named = {f"the {name} model": count for name, count in counts.items()}
    found = caution_answers(named, dict.fromkeys(named, accuracy.prompts), max_tokens)
    p = accuracy.p if p is None else p
    shown = decide(accuracy, p, confidence) != "no difference shown"
    return [*found, *_too_hard_or_easy(accuracy, shown=shown)]


def caution_answers(
    counts: Mapping[str, AnswerCounts], prompts: Mapping[str, int], max_tokens: int | None = None
) -> list[str]:
    """What the answers of any number of contenders, each of which was asked so many prompts, lack:
    a sentence for each of ENDINGS that some have in a notable share. `max_tokens`: what they were
    cut at, if that is known."""
    found = []
    for ended, how in ENDINGS.items():
        shares = {name: getattr(count, ended) / prompts[name] for name, count in counts.items()}
        notable = [name for name, share in shares.items() if share >= NOTABLE]
        if not notable:
            continue
        rest = [name for name in shares if name not in notable]
        told = shares if len(rest) == 1 else notable
        said = [f"{percent(shares[name])} of {name}'s" for name in told]
        if len(rest) > 1:
            most = max(shares[name] for name in rest)
            said.append(f"{f'at most {percent(most)}' if most else 'none'} of any other's")
        limit = f" {max_tokens}" if ended == "length_limited" and max_tokens else ""
        found.append(f"{listed(said)} answers were {how}{limit}.")
    return found


def _too_hard_or_easy(accuracy: AccuracyComparison, *, shown: bool) -> list[str]:
    """A task that both fail or both can do; where it tells them apart all the same (`shown`), the
    ease of it takes nothing from the difference."""
    if max(accuracy.base.value, accuracy.tuned.value) < FLOOR:
        telling = "." if shown else ": it can't tell them apart."
        return [
            f"both score below {percent(FLOOR, 0)}; the task is too hard for both, or "
            f"right answers are not recognized{telling}"
        ]
    if min(accuracy.base.value, accuracy.tuned.value) > CEILING and not shown:
        return [f"both score above {percent(CEILING, 0)}; the task is too easy to tell them apart."]
    return []


def rank_contenders(pairs: Sequence[Pair], settings: BenchSettings) -> Ranking | None:
    """Every contender beside every other, with what makes its score say less; None where there are
    only base and tuned. The base asked again is no contender."""
    answers = {name: each for name, each in responses(pairs).items() if name != NOISE_FLOOR}
    if len(answers) < 3:
        return None
    scores = {name: scores_of(each) for name, each in answers.items()}
    counts = {name: count_answers(each) for name, each in answers.items()}
    cautions = caution_answers(counts, dict.fromkeys(answers, len(pairs)), settings.max_tokens)
    bootstrap = bootstrap_of([pair.example.source for pair in pairs], settings)
    return rank(scores, bootstrap, cautions)
