"""Any number of contenders on the same prompts: every pair tested, and which differences stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from string import ascii_lowercase

from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray
from tuneserve.console import listed


@dataclass(frozen=True)
class PairTest:
    """`first` minus `second`, paired over the prompts; `adjusted_p` is Holm's over all pairs.
    `shown`: the adjusted test and the interval (of this pair alone) say so (`direction`);
    `why_not`: what else is in the way where they do, or ''."""

    first: str
    second: str
    difference: Estimate
    won: int
    lost: int
    adjusted_p: float
    shown: bool
    why_not: str = ""


@dataclass(frozen=True)
class Ranked:
    """A contender with its accuracy; between contenders that share one of their `letters` no
    difference is shown (compact letter display)."""

    name: str
    accuracy: Estimate
    letters: str


@dataclass(frozen=True)
class Ranking:
    """Contenders by accuracy, best first, and the test of every pair, better one first. The
    sentence ends with the `cautions`: what makes a contender's score say less than it seems to."""

    prompts: int
    ranked: list[Ranked]
    tests: list[PairTest]
    sentence: str
    cautions: list[str] = field(default_factory=list)

    @property
    def beside_verdict(self) -> str:
        """Why a verdict of two of the contenders may say more than the ranking."""
        return (
            f"p is Holm-adjusted over all {len(self.tests)} pairs. The verdict is of tuned against "
            "base alone, the one test that was planned: it may show a difference that does not "
            "stand among so many."
        )


def rank(
    scores: Mapping[str, FloatArray], bootstrap: Bootstrap, cautions: Sequence[str] = ()
) -> Ranking:
    """Contenders' scores, [prompts] each; two contenders or more."""
    accuracies = {name: intervals.accuracy(values, bootstrap) for name, values in scores.items()}
    names = sorted(scores, key=lambda name: -accuracies[name].value)
    pairs = list(combinations(names, 2))
    adjusted = significance.holm(
        [
            significance.paired_p(
                bootstrap.by_cluster(scores[first] - scores[second]), seed=bootstrap.seed
            )
            for first, second in pairs
        ]
    )
    tests = [
        _test(first, second, scores, p, bootstrap, len(pairs))
        for (first, second), p in zip(pairs, adjusted, strict=True)
    ]
    letters = letter_display(names, [(test.first, test.second) for test in tests if test.shown])
    return Ranking(
        prompts=len(scores[names[0]]),
        ranked=[Ranked(name, accuracies[name], letters[name]) for name in names],
        tests=tests,
        sentence=" ".join([_sentence(tests), *(f"Caution: {each}" for each in cautions)]),
        cautions=list(cautions),
    )


def _test(
    first: str,
    second: str,
    scores: Mapping[str, FloatArray],
    p: float,
    bootstrap: Bootstrap,
    comparisons: int,
) -> PairTest:
    ours, theirs = scores[first], scores[second]
    difference = intervals.paired_difference(ours, theirs, bootstrap)
    undoing = float(significance.undoing_of(ours - theirs, bootstrap, comparisons))
    shown = significance.direction(difference, p, bootstrap.confidence, undoing) != 0
    return PairTest(
        first=first,
        second=second,
        difference=difference,
        won=int((ours > theirs).sum()),
        lost=int((ours < theirs).sum()),
        adjusted_p=p,
        shown=shown,
        why_not=f"{100 * undoing:.1f} points could be undone by kinds not seen"
        if not shown and significance.direction(difference, p, bootstrap.confidence)
        else "",
    )


def letter_display(names: Sequence[str], apart: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Letters such that two names share one if, and only if, they are no pair of `apart`: insert
    and absorb (Piepho 2004, J Comput Graph Stat 13:456)."""
    groups = [frozenset(names)]
    for pair in map(frozenset, apart):
        split = [
            part
            for group in groups
            for part in ([group - {name} for name in pair] if pair <= group else [group])
        ]
        groups = [
            group
            for place, group in enumerate(split)
            if not any(group < other for other in split) and group not in split[:place]
        ]
    groups.sort(key=lambda group: sorted(map(names.index, group)))
    return {
        name: "".join(_letter(place) for place, group in enumerate(groups) if name in group)
        for name in names
    }


def _letter(place: int) -> str:
    """a to z, then with a number."""
    number = place // len(ascii_lowercase)
    return ascii_lowercase[place % len(ascii_lowercase)] + (str(number) if number else "")


def _sentence(tests: Sequence[PairTest]) -> str:
    better: dict[str, list[str]] = {}
    for test in tests:
        if test.shown:
            better.setdefault(test.first, []).append(test.second)
    said = [f"{first} is better than {listed(others)}" for first, others in better.items()]
    said = said or ["no difference is shown"]
    number = sum(test.shown for test in tests)
    differ = {0: "none differs", 1: "1 differs"}.get(number, f"{number} differ")
    return f"Of {len(tests)} pairs, {differ}: {'; '.join(said)}."
