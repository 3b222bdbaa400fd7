"""A model as judge: which of two answers is better, asked in both orders through an endpoint.

What a judge says is an opinion, and is never mixed with scores made by rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.keys import digest
from tuneserve.bench.measure.missing import ask_missing
from tuneserve.bench.measure.values import JUDGED
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings

JUDGE = "judge"
JUDGE_TOKENS = 1024  # room for a few sentences, or thoughts, before the choice
ORDERS = (("tuned", "base"), ("base", "tuned"))
"""Who is A and who is B: a judge that prefers the first answer prefers each as often."""

_QUESTION = """\
Two assistants answered the same conversation. Say which answer is better.

What a good answer is: {criteria}

<conversation>
{conversation}
</conversation>

<reference>
{reference}
</reference>

<answer_a>
{first}
</answer_a>

<answer_b>
{second}
</answer_b>

Think briefly, then end with one line that is nothing but A, B or TIE."""


@dataclass(frozen=True)
class JudgeRequest:
    """A prompt with both models' answers; which stands first is `order`, a place in ORDERS."""

    example: Example
    answers: dict[str, str]
    order: int

    def question(self, criteria: str) -> str:
        first, second = (self.answers[name] for name in ORDERS[self.order])
        turns = [
            f"{message['role']}: {message.get('content') or ''}" for message in self.example.prompt
        ]
        return _QUESTION.format(
            criteria=criteria,
            conversation="\n\n".join(turns),
            reference=self.example.reference.strip(),
            first=first,
            second=second,
        )

    def id(self, settings: BenchSettings) -> str:
        """The id under which the judgement is kept: another answer is another question."""
        asked = [settings.judge, settings.judge_model, settings.endpoint_body]
        asked.append(self.question(settings.judge_criteria))
        return f"{self.example.id} {self.order} {digest(asked)[:16]}"


def judge_requests(
    answers: Sequence[tuple[Example, dict[str, str]]],
) -> list[JudgeRequest]:
    """Both orders of every prompt whose answers differ: of two that are the same none is better."""
    return [
        JudgeRequest(example, each, order)
        for example, each in answers
        if each["base"].strip() != each["tuned"].strip()
        for order in range(len(ORDERS))
    ]


def measure_judge(
    requests: Sequence[JudgeRequest], settings: BenchSettings, journal: Journal
) -> None:
    """What the judge says that the journal does not hold yet; failures are asked again."""
    asked = settings.model_copy(
        update={
            "endpoint": settings.judge,
            "endpoint_model": settings.judge_model,
            "max_tokens": JUDGE_TOKENS,
        }
    )
    questions = [
        Example.of_turn(request.id(settings), request.question(settings.judge_criteria), "A")
        for request in requests
    ]
    ask_missing(
        questions, asked, journal, kind=JUDGED, model=JUDGE, label="judge", unit="questions"
    )
