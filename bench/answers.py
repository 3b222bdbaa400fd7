"""From the journal's measurements to scored answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.examples import Example
from bench.journal import Journal
from bench.measure import ANSWER, CHOICE, LIKELIHOOD
from bench.prompts import EncodedExample
from bench.results import Answer, Pair, Response
from bench.scoring import Scorer, split_thought
from tuneserve.settings import BenchSettings

LIKELIHOOD_TASKS = ("likelihood", "likelihood_per_token")


def with_choices(examples: Sequence[Example], choices: Sequence[str]) -> list[Example]:
    """Every prompt with every choice in the reference's place."""
    return [
        replace(example, id=choice_id(example, number), reference=choice)
        for example in examples
        for number, choice in enumerate(choices)
    ]


def choice_id(example: Example, number: int) -> str:
    """The id under which a prompt with its choice of that number is measured."""
    return f"{example.id} {number}"


def read_pairs(
    journal: Journal,
    encoded: Sequence[EncodedExample],
    choices: Sequence[str],
    settings: BenchSettings,
    scorer: Scorer,
    others: Sequence[str] = (),
) -> list[Pair]:
    """Both models' answers to every prompt, scored, and those of the `others`. `choices` is empty
    where answers were generated."""

    def answer(name: str, item: EncodedExample) -> Answer:
        if choices:
            return _chosen(journal, name, item, choices, settings, scorer)
        return _with_likelihood(_generated(journal, name, item, scorer), journal, name, item)

    return [
        Pair(
            item.example,
            answer("base", item),
            answer("tuned", item),
            {name: _generated(journal, name, item, scorer) for name in others},
        )
        for item in encoded
    ]


def _generated(journal: Journal, name: str, item: EncodedExample, scorer: Scorer) -> Response:
    generated = journal.get(ANSWER, name, item.example.id)
    split = split_thought(generated["text"], opened=item.opens_thought)
    return Response(
        text=split.answer,
        thought=split.thought,
        cut_off=split.cut_off,
        score=scorer(split.answer, reference_of(item.example)),
        finish_reason=generated["finish_reason"],
        generated_tokens=generated["tokens"],
    )


def _with_likelihood(
    response: Response, journal: Journal, name: str, item: EncodedExample
) -> Answer:
    measured = journal.get(LIKELIHOOD, name, item.example.id)
    return Answer(
        **vars(response), reference_nll=measured["nll"], reference_tokens=measured["tokens"]
    )


def _chosen(
    journal: Journal,
    name: str,
    item: EncodedExample,
    choices: Sequence[str],
    settings: BenchSettings,
    scorer: Scorer,
) -> Answer:
    """The choice that the model finds likeliest, as a whole or per token."""

    def surprise(number: int) -> float:
        measured = journal.get(CHOICE, name, choice_id(item.example, number))
        per_token = settings.task == "likelihood_per_token"
        return float(measured["nll"]) / (measured["tokens"] if per_token else 1)

    best = choices[min(range(len(choices)), key=surprise)]
    response = Response(
        text=best,
        thought="",
        cut_off=False,
        score=scorer(best, reference_of(item.example)),
        finish_reason="chosen",
        generated_tokens=0,
    )
    return _with_likelihood(response, journal, name, item)


def reference_of(example: Example) -> str:
    """The reference answer without its thought."""
    return split_thought(example.reference).answer
