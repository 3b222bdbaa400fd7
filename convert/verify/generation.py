"""Contract: the served model stops where it was trained to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tuneserve.arrays import Floats
from tuneserve.chat.prompt import EncodedExample
from tuneserve.convert.verify.checks import Check
from tuneserve.convert.verify.logits import make_context
from tuneserve.llama import LlamaContext, LlamaModel, TokenBatch

EXTRA_TOKENS = 16
LONGEST_ANSWER = 128


@dataclass
class SampleAnswer:
    """A greedy answer while it is generated, of at most `limit` tokens."""

    prompt: Sequence[int]
    limit: int
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def running(self) -> bool:
        return not self.ended and len(self.tokens) < self.limit

    def add(self, token: int, *, is_end: bool) -> None:
        if is_end:
            self.ended = True
        else:
            self.tokens.append(token)


def generate(context: LlamaContext, answers: Sequence[SampleAnswer]) -> None:
    """The most likely continuation of every prompt, token by token, all side by side."""
    batch = TokenBatch(context.n_batch)
    context.clear()
    for number, answer in enumerate(answers):
        batch.clear()
        batch.add(answer.prompt, 0, number, outputs=1)
        _extend([answer], context, batch)
    while running := [n for n, answer in enumerate(answers) if answer.running]:
        batch.clear()
        for n in running:
            answer = answers[n]
            last = len(answer.prompt) + len(answer.tokens) - 1
            batch.add(answer.tokens[-1:], last, n, outputs=1)
        _extend([answers[n] for n in running], context, batch)


def _extend(answers: Sequence[SampleAnswer], context: LlamaContext, batch: TokenBatch) -> None:
    """Add the most likely next token to each of `answers`, whose outputs the batch has in order."""
    context.decode(batch)
    for answer, row in zip(answers, context.batch_logits(len(answers)), strict=True):
        token = int(row.argmax())
        answer.add(token, is_end=context.model.is_end(token))


def check_ending(
    model: LlamaModel,
    examples: Sequence[EncodedExample],
    reference: Sequence[Floats],
    *,
    longest: int,
    threads: int,
) -> tuple[Check, str]:
    """Greedy answers to held-out prompts end by themselves, if the trainer's model does so.

    Where a reference has thoughts, the answer is written after these. `reference`: the trainer's
    logits of each prompt with its answer; their last row predicts the token after the answer.
    `longest`: tokens of a prompt that are kept. Returns the check and the first answer as a sample.
    """
    expected = [model.is_end(int(logits[-1].argmax())) for logits in reference]
    answers = [
        SampleAnswer(start[-longest:], min(LONGEST_ANSWER, 2 * length + EXTRA_TOKENS))
        for start, length in map(_start, examples)
    ]
    room = max(len(answer.prompt) + answer.limit for answer in answers)
    with make_context(model, room, sequences=len(answers), threads=threads) as context:
        generate(context, answers)
    ended = sum(answer.ended for answer in answers)
    sample = b"".join(model.token_bytes(token) for token in answers[0].tokens)
    detail = (
        f"{ended} of {len(answers)} greedy answers end by themselves; the trainer's model ends "
        f"{sum(expected)} of {len(expected)} reference answers"
    )
    figures = {"ended": ended, "prompts": len(answers), "reference_ended": sum(expected)}
    passed = ended > 0 or 2 * sum(expected) < len(expected)
    return Check("end token", passed, detail, figures), sample.decode("utf-8", "replace")


def _start(item: EncodedExample) -> tuple[list[int], int]:
    """The ids to continue, and the length of the reference's continuation without its end token. A
    text without a prompt is continued from its middle."""
    length = len(item.answer) - 1
    given = item.unscored if item.example.prompt else -(-length // 2)
    return item.prompt + item.answer[:given], length - given
