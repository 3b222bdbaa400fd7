"""The answers whose divergence is measured: examples that training held out first, never the
test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

from tuneserve.chat.examples import sample_split
from tuneserve.chat.prompt import GGUFTokenizer, encode, template_of
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory

LONGEST = 1024
# Bytes that the logits of the answers may take, as float32.
LOGIT_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """Token ids of a prompt and its answer, but for the last one; the logits from place `start` on
    are those that the answer is drawn from."""

    ids: list[int]
    start: int


def common_beginning(answers: Sequence[Answer]) -> list[int]:
    """The ids that all of these begin with, before any answer; computed once for all of them."""
    places = zip(*(answer.ids for answer in answers), strict=False)
    same = takewhile(lambda ids: len(set(ids)) == 1, places)
    return [ids[0] for ids in same][: min(answer.start for answer in answers)]


def find_answers(model: LlamaModel, run: RunDirectory, tokens: int) -> list[Answer]:
    """Examples of about `tokens` tokens in all, a common beginning counted once: of the eval split,
    then of the training split.

    `model` is the tuned one. Raises UsageError if there is none.
    """
    tokenizer = GGUFTokenizer(model)
    room = LOGIT_BYTES // (4 * model.n_vocab)
    answers: list[Answer] = []
    splits = [run.split(name) for name in ("eval", "train")]
    for example in chain.from_iterable(sample_split(path) for path in splits if path.exists()):
        template = template_of(model) if example.prompt else None
        encoded = encode(tokenizer, template, example, thoughts=run.thoughts, as_it_is=True)
        count = min(len(encoded.answer), LONGEST // 2, room)
        ids = (encoded.prompt + encoded.answer[:count])[:-1][-LONGEST:]
        start = max(0, len(ids) - count)
        if len(ids) == start:
            continue
        answers.append(Answer(ids, start))
        beginning = len(common_beginning(answers)) if len(answers) > 1 else 0
        tokens, room = tokens - (len(ids) - beginning), room - (len(ids) - start)
        if tokens <= 0 or room <= 0:
            break
    if not answers:
        raise UsageError("no example to choose types with", where=str(splits[-1]))
    return answers
