"""Contract: the served model stops where it was trained to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.chat.prompt import EncodedExample
from tuneserve.convert.result import Check
from tuneserve.convert.verify.logits import fits_gpu, make_context, open_model
from tuneserve.llama import LlamaContext, TokenBatch
from tuneserve.llama.lora import load_adapter, use_adapter

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
            last = len(answers[n].prompt) + len(answers[n].tokens) - 1
            batch.add(answers[n].tokens[-1:], last, n, outputs=1)
        _extend([answers[n] for n in running], context, batch)


def _extend(answers: Sequence[SampleAnswer], context: LlamaContext, batch: TokenBatch) -> None:
    """Add the most likely next token to each of `answers`, whose outputs the batch has in order."""
    context.decode(batch)
    for answer, row in zip(answers, context.batch_logits(len(answers)), strict=True):
        token = int(row.argmax())
        answer.ended = context.model.is_end(token)
        if not answer.ended:
            answer.tokens.append(token)


def check_ending(
    path: Path,
    examples: Sequence[EncodedExample],
    reference: Sequence[Floats],
    *,
    longest: int,
    threads: int,
    lora: Path | None = None,
) -> tuple[Check, str]:
    """Greedy answers to held-out prompts end by themselves, if the trainer's model does so.

    Where a reference has thoughts, the answer is written after these. `reference`: the trainer's
    logits of each prompt with its answer; their last row predicts the token after the answer.
    `longest`: tokens of a prompt that are kept; `lora`: a LoRA GGUF on the file. Returns the check
    and the first answer as a sample.
    """
    answers = [
        SampleAnswer(start[-longest:], min(LONGEST_ANSWER, 2 * length + EXTRA_TOKENS))
        for start, length in map(_start, examples)
    ]
    room = max(len(answer.prompt) + answer.limit for answer in answers)
    on_gpu = fits_gpu(path)
    with (
        open_model(path, on_gpu=on_gpu) as model,
        make_context(
            model, room, sequences=len(answers), threads=threads, on_gpu=on_gpu
        ) as context,
    ):
        if lora is not None:
            use_adapter(context, load_adapter(model, lora))
        generate(context, answers)
        ended = sum(answer.ended for answer in answers)
        expected = sum(model.is_end(int(logits[-1].argmax())) for logits in reference)
        sample = b"".join(map(model.token_bytes, answers[0].tokens)).decode("utf-8", "replace")
    detail = (
        f"{ended} of {len(answers)} greedy answers end by themselves; the trainer's model ends "
        f"{expected} of {len(reference)} reference answers"
    )
    figures = {"ended": ended, "prompts": len(answers), "reference_ended": expected}
    passed = ended > 0 or 2 * expected < len(reference)
    return Check("end token", passed, detail, figures), sample


def _start(item: EncodedExample) -> tuple[list[int], int]:
    """The ids to continue, and the length of the reference's continuation without its end token. A
    text without a prompt is continued from its middle."""
    length = len(item.answer) - 1
    given = item.unscored if item.example.prompt else -(-length // 2)
    return item.prompt + item.answer[:given], length - given
