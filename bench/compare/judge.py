"""What a judge found: how often each model's answer is better, and how far the judge is to be
trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tuneserve.bench.compare.beside import JudgeAgreement, JudgeComparison
from tuneserve.bench.compare.pairs import Pair
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.judge import JUDGE, ORDERS, JudgeRequest, judge_requests
from tuneserve.bench.measure.values import JUDGED
from tuneserve.bench.stats.bootstrap import cluster_numbers
from tuneserve.bench.stats.significance import paired_p
from tuneserve.bench.tasks.scorers.choices import settled_choice
from tuneserve.bench.tasks.thoughts import split_answer
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

Better = Literal["tuned", "base", "tie"]
BETTER: tuple[Better, ...] = ("tuned", "base", "tie")
_LETTERS = ("A", "B")


def requests_of(pairs: Sequence[Pair]) -> list[JudgeRequest]:
    """What the judge is asked about these answers."""
    return judge_requests(
        [(pair.example, {"base": pair.base.text, "tuned": pair.tuned.text}) for pair in pairs]
    )


def compare_judged(
    pairs: Sequence[Pair], settings: BenchSettings, journal: Journal
) -> JudgeComparison:
    """The judge's findings: a model wins a prompt only if it is preferred in both orders."""
    said: dict[str, list[Better | None]] = {}
    for request in requests_of(pairs):
        found = journal.get(JUDGED, JUDGE, request.id(settings))
        said.setdefault(request.example.id, []).append(_better(found, request.order, settings))
    verdicts: dict[str, Better] = {}
    flips = unread = 0
    for pair in pairs:
        first, second = said.get(pair.example.id, ["tie", "tie"])
        if first is None or second is None:
            unread += 1
            continue
        flips += {first, second} == {"tuned", "base"}
        verdicts[pair.example.id] = first if first == second else "tie"
    judged = [pair for pair in pairs if pair.example.id in verdicts]
    worth = {"tuned": 1, "base": -1, "tie": 0}
    net = np.bincount(
        cluster_numbers([pair.example.source for pair in judged]),
        weights=[worth[verdicts[pair.example.id]] for pair in judged],
    )
    counts = {name: sum(each == name for each in verdicts.values()) for name in BETTER}
    return JudgeComparison(
        model=settings.judge_model or settings.judge,
        prompts=len(judged),
        tuned_better=counts["tuned"],
        base_better=counts["base"],
        ties=counts["tie"],
        flips=flips,
        unread=unread,
        p=paired_p(net) if len(judged) else 1.0,
        agreement=_agreement(verdicts, read_labels(settings.judge_labels)),
    )


def _better(found: dict[str, object], order: int, settings: BenchSettings) -> Better | None:
    """Whom the judge prefers; None where it did not answer, or said neither A, B nor TIE."""
    if "failed" in found:
        return None
    text = split_answer(str(found["text"]), think_tags=settings.think_tags).answer.strip()
    last = text.rpartition("\n")[2]
    choice = _clear_choice(last) or _clear_choice(text)
    if choice is None:
        return None
    return "tie" if choice == "TIE" else BETTER[BETTER.index(_named(choice, order))]


def _clear_choice(text: str) -> str | None:
    """The choice of a text that makes one; of several ("A is better than B") none is guessed."""
    choice, found = settled_choice(text, [*_LETTERS, "TIE"])
    return choice if found == "one" else None


def _named(letter: str, order: int) -> Better:
    return "tuned" if ORDERS[order][_LETTERS.index(letter)] == "tuned" else "base"


def read_labels(path: str) -> dict[str, str]:
    """People's preferences by prompt id, of a JSONL file with 'id' and 'better' (tuned, base or
    tie). Raises UsageError naming every bad line, and an id that is there twice."""
    if not path:
        return {}
    found: dict[str, str] = {}
    problems = []
    where = f"bench.judge_labels: {path}"
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=where) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"is no UTF-8: {error.reason}", where=where) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if row["better"] not in BETTER:
                raise ValueError(f"better is one of {', '.join(BETTER)}")
            if (name := str(row["id"])) in found:
                raise ValueError(f"'{name}' is there already: one label a prompt")
            found[name] = row["better"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            problems.append(f"{path}:{number}: {error}")
    if problems or not found:
        raise UsageError(
            "no usable labels" if not found else f"{len(problems)} bad lines",
            where=where,
            problems=problems,
        )
    return found


def _agreement(verdicts: dict[str, Better], labels: dict[str, str]) -> JudgeAgreement | None:
    """How often the judge says what people said, and Cohen's kappa (1960): what is above chance."""
    both = [(verdicts[name], label) for name, label in labels.items() if name in verdicts]
    if not both:
        return None
    share = sum(one == other for one, other in both) / len(both)
    chance = (
        sum(
            sum(one == name for one, _ in both) * sum(other == name for _, other in both)
            for name in BETTER
        )
        / len(both) ** 2
    )
    kappa = (share - chance) / (1 - chance) if chance < 1 else None
    return JudgeAgreement(len(both), share, kappa, len(labels) - len(both))
