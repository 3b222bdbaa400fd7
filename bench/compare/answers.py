"""From the journal's measurements to scored answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneserve.bench.compare.pairs import FAILED, Answer, Pair, Response
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.values import ANSWER, CHOICE, LIKELIHOOD
from tuneserve.bench.measure.work import ENDPOINT
from tuneserve.bench.tasks.scorers import Mark, Scorer, ScorerError
from tuneserve.bench.tasks.scorers.marks import plain
from tuneserve.bench.tasks.tasks import Choices, Task, reference_of
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
    if asked.task.choices:
        return [
            _likeliest(journal, name, item.example, choices)
            for item, choices in zip(asked.encoded, asked.task.choices, strict=True)
        ]
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
    for place, response in enumerate(read_responses(journal, name, asked)):
        example = asked.encoded[place].example
        if asked.task.choices:
            first = min(asked.task.choices[place].right)
            measured = journal.get(CHOICE, name, choice_id(example, first))
        else:
            measured = journal.get(LIKELIHOOD, name, example.id)
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
    if asked.task.verbatim:
        return _as_generated(generated, scorer)
    # An endpoint may hand thoughts out apart, and its prompt is its own.
    opened = None if name == ENDPOINT else item.opens_thought
    split = split_answer(generated["text"], opened=opened, think_tags=asked.think_tags)
    answer = split.answer.strip()
    apart = generated.get("thoughts", "")
    mark, problem = _marked(scorer, answer, reference_of(item.example))
    length = generated["finish_reason"] == "length"
    thought = apart or (split.thoughts or "").strip()
    cut_off = split.cut_off or bool(apart and length and not answer)
    return _scored(generated, mark, text=answer, thought=thought, cut_off=cut_off, problem=problem)


def _as_generated(generated: Mapping[str, Any], scorer: Scorer) -> Response:
    """The answer with all that is in it."""
    mark, problem = _marked(scorer, generated["text"], "")
    return _scored(generated, mark, text=generated["text"], problem=problem)


def _scored(
    generated: Mapping[str, Any],
    mark: Mark,
    *,
    text: str,
    thought: str = "",
    cut_off: bool = False,
    problem: str = "",
) -> Response:
    return Response(
        text=text,
        thought=thought,
        cut_off=cut_off,
        score=mark.score,
        finish_reason=generated["finish_reason"],
        generated_tokens=generated["tokens"],
        strict=mark.strict,
        lenient=mark.lenient,
        found=mark.found,
        problem=problem,
    )


def _marked(scorer: Scorer, answer: str, reference: str) -> tuple[Mark, str]:
    """The answer's mark; where the user's scorer or pattern fails on it, a zero and why."""
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

    surprises = [surprise(number) for number in range(len(asked.choices))]
    best = asked.choices[surprises.index(min(surprises))]
    mark = scorer.mark(best, reference_of(item.example))
    return _choice_made(best, asked.choices, surprises, mark)


def _likeliest(journal: Journal, name: str, example: Example, choices: Choices) -> Response:
    """The likeliest of the prompt's own choices."""
    nll = [
        journal.get(CHOICE, name, choice_id(example, number))["nll"]
        for number in range(len(choices.texts))
    ]
    surprises = [each / length for each, length in zip(nll, choices.lengths, strict=True)]
    best = surprises.index(min(surprises))
    mark = plain(float(best in choices.right))
    return _choice_made(choices.texts[best], choices.texts, surprises, mark)


def _choice_made(
    text: str, choices: Sequence[str], surprises: Sequence[float], mark: Mark
) -> Response:
    """The response of a model that finds `text` likeliest; `surprises` are negative
    log-likelihoods, [choices]."""
    least = min(surprises)
    weights = [math.exp(least - each) for each in surprises]
    probabilities = dict.fromkeys(choices, 0.0)
    for choice, weight in zip(choices, weights, strict=True):
        probabilities[choice] += weight / sum(weights)
    return Response(
        text=text,
        thought="",
        cut_off=False,
        score=mark.score,
        strict=mark.strict,
        lenient=mark.lenient,
        finish_reason="chosen",
        generated_tokens=0,
        probabilities=probabilities,
    )
