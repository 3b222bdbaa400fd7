"""From the journal's measurements to scored answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tuneserve.bench.compare.pairs import FAILED, Answer, Pair, Response
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.measure import ANSWER, CHOICE, ENDPOINT, LIKELIHOOD
from tuneserve.bench.tasks.scorers import Mark, Scorer, ScorerError
from tuneserve.bench.tasks.tasks import Task, reference_of
from tuneserve.bench.tasks.thoughts import split_answer
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample


@dataclass(frozen=True)
class Asked:
    """A task and its prompts as token ids. Where answers are chosen rather than generated,
    `choices` are what there is to choose from, the likeliest in all or `per_token`; `think_tags`
    are marks of thoughts beside those that are known."""

    task: Task
    encoded: list[EncodedExample]
    choices: Sequence[str] = ()
    per_token: bool = False
    think_tags: Sequence[str] = ()


def with_choices(examples: Sequence[Example], choices: Sequence[str]) -> list[Example]:
    """Every prompt with every choice in the reference's place. The reference's thoughts are left
    out: they argue for one of the choices."""
    return [
        example.named(choice_id(example, number)).answered(choice)
        for example in examples
        for number, choice in enumerate(choices)
    ]


def choice_id(example: Example, number: int) -> str:
    """The id under which a prompt with its choice of that number is measured."""
    return f"{example.id} {number}"


def read_responses(journal: Journal, name: str, asked: Asked) -> list[Response]:
    """A contender's answers to the task's prompts, scored."""
    respond = _chosen if asked.choices else _generated
    return [
        respond(journal, name, asked, item, scorer)
        for item, scorer in zip(asked.encoded, asked.task.scorers, strict=True)
    ]


def read_pairs(journal: Journal, asked: Asked, others: Sequence[str] = ()) -> list[Pair]:
    """Both models' answers to the task's prompts, and those of the `others`."""
    base, tuned = (_read_answers(journal, name, asked) for name in ("base", "tuned"))
    more = {name: read_responses(journal, name, asked) for name in others}
    return [
        Pair(
            item.example,
            base[place],
            tuned[place],
            {name: responses[place] for name, responses in more.items()},
        )
        for place, item in enumerate(asked.encoded)
    ]


def with_rivals(pairs: Sequence[Pair], rivals: Mapping[str, Sequence[Response]]) -> list[Pair]:
    """The pairs with the answers of further models, [prompts] each."""
    return [
        replace(
            pair, others={**pair.others, **{name: each[place] for name, each in rivals.items()}}
        )
        for place, pair in enumerate(pairs)
    ]


def _read_answers(journal: Journal, name: str, asked: Asked) -> list[Answer]:
    """The answers, with how likely the references were."""
    answers = []
    for item, response in zip(asked.encoded, read_responses(journal, name, asked), strict=True):
        measured = journal.get(LIKELIHOOD, name, item.example.id)
        nll, tokens = measured["nll"], measured["tokens"]
        answers.append(Answer(**vars(response), reference_nll=nll, reference_tokens=tokens))
    return answers


def _generated(
    journal: Journal, name: str, asked: Asked, item: EncodedExample, scorer: Scorer
) -> Response:
    generated = journal.get(ANSWER, name, item.example.id)
    if reason := generated.get("failed"):
        return Response(
            "", "", cut_off=False, score=0.0, finish_reason=FAILED, generated_tokens=0,
            strict=0.0, lenient=0.0, found="none", problem=str(reason),
        )  # fmt: skip
    # An endpoint may hand thoughts out apart, and its prompt is its own.
    opened = None if name == ENDPOINT else item.opens_thought
    split = split_answer(generated["text"], opened=opened, think_tags=asked.think_tags)
    answer = split.answer.strip()
    apart = generated.get("thoughts", "")
    mark, problem = _marked(scorer, answer, reference_of(item.example))
    length = generated["finish_reason"] == "length"
    return Response(
        text=answer,
        thought=apart or (split.thoughts or "").strip(),
        cut_off=split.cut_off or bool(apart and length and not answer),
        score=mark.score,
        finish_reason=generated["finish_reason"],
        generated_tokens=generated["tokens"],
        strict=mark.strict,
        lenient=mark.lenient,
        found=mark.found,
        problem=problem,
    )


def _marked(scorer: Scorer, answer: str, reference: str) -> tuple[Mark, str]:
    """The answer's mark; where the user's scorer fails on it, a zero and what the scorer said."""
    try:
        return scorer.mark(answer, reference), ""
    except ScorerError as error:
        return Mark(0.0, 0.0, 0.0), error.message


def _chosen(
    journal: Journal, name: str, asked: Asked, item: EncodedExample, scorer: Scorer
) -> Response:
    """The choice that the model finds likeliest."""

    def surprise(number: int) -> float:
        measured = journal.get(CHOICE, name, choice_id(item.example, number))
        return float(measured["nll"]) / (measured["tokens"] if asked.per_token else 1)

    surprises = {choice: surprise(number) for number, choice in enumerate(asked.choices)}
    best = min(surprises, key=surprises.__getitem__)
    weights = {choice: math.exp(surprises[best] - each) for choice, each in surprises.items()}
    total = sum(weights.values())
    mark = scorer.mark(best, reference_of(item.example))
    return Response(
        text=best,
        thought="",
        cut_off=False,
        score=mark.score,
        strict=mark.strict,
        lenient=mark.lenient,
        finish_reason="chosen",
        generated_tokens=0,
        probabilities={choice: weight / total for choice, weight in weights.items()},
    )
