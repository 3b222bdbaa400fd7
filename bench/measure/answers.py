"""A model's greedy answers, by the engine that serves, and how likely it finds the references."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.likelihood import Likelihood
from tuneserve.bench.measure.numbers import DAMAGED
from tuneserve.bench.measure.values import ANSWER, LIKELIHOOD
from tuneserve.bench.measure.work import NOISE_FLOOR, AnswerRequest, Contender
from tuneserve.bench.tasks.thoughts import shown_marks
from tuneserve.console import Advance, progress
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel
from tuneserve.serve.offload import offline_settings
from tuneserve.settings import BenchSettings, ServeSettings

if TYPE_CHECKING:
    from tuneserve.serve.engine import Completion, Engine

BLOCK_ROUNDS = 8  # prompts in a block for each that is answered at a time


def answer_blocks(
    requests: Sequence[AnswerRequest], parallel: int
) -> list[Sequence[AnswerRequest]]:
    """The requests in blocks that are answered as a whole. A block is of one task, so that another
    task beside it changes nothing."""
    size = BLOCK_ROUNDS * parallel
    tasks = [list(group) for _, group in groupby(requests, key=lambda request: request.task)]
    return [task[first : first + size] for task in tasks for first in range(0, len(task), size)]


def generate_answers(
    contender: Contender,
    requests: Sequence[AnswerRequest],
    journal: Journal,
    *,
    likelihoods: bool = False,
) -> None:
    """The model's greedy answers, prompts of a block batched together; with `likelihoods` those of
    the references too, as far as requests expect them.

    How prompts are batched changes the last digits of the logits and so, at near ties, the words.
    Therefore blocks are always made of all requests, and a block is answered as a whole and from an
    empty KV cache: a benchmark that goes on after a kill gives the same answers.
    """
    todo = [
        block
        for block in answer_blocks(requests, contender.bench.parallel)
        if not all(journal.has(ANSWER, contender.name, request.id) for request in block)
    ]
    if not todo:
        return
    from tuneserve.serve.engine import Engine
    from tuneserve.serve.engine.weights import LogitsError

    with (
        Engine(
            contender.path,
            engine_settings(contender.serve, contender.bench),
            lora=contender.lora,
            steady=True,
        ) as engine,
        progress(f"{contender.name}: answers", sum(map(len, todo)), unit="prompts") as advance,
    ):
        shown = _marks_of_thoughts(engine.model, contender.bench.think_tags)
        record = _Record(contender.name, journal, advance, likelihoods)
        for block in todo:
            try:
                _answer_block(engine, block, shown, record)
            except LogitsError as error:
                where = str(contender.path)
                raise TuneserveError(error.message, where=where, hint=DAMAGED) from error


def _marks_of_thoughts(model: LlamaModel, think_tags: Sequence[str]) -> frozenset[int]:
    """The marks that tell thoughts from answers and are control tokens, which a text has not."""
    ids = map(model.tokenize, shown_marks(think_tags))
    return frozenset(one[0] for one in ids if len(one) == 1 and model.is_special(one[0]))


def engine_settings(serve: ServeSettings, bench: BenchSettings) -> ServeSettings:
    """Serve settings with a context for every prompt that is answered at a time, the same for base
    and tuned. What prompts of a block begin with alike is kept while the block is answered."""
    settings = offline_settings(serve, ctx=bench.ctx * bench.parallel, slots=bench.parallel)
    return settings.model_copy(update={"prefix_share": 0.5})


@dataclass(frozen=True)
class _Record:
    """Writes the answers of the model `name` down, with `likelihoods` those of the references that
    requests expect."""

    name: str
    journal: Journal
    advance: Advance
    likelihoods: bool

    def __call__(self, request: AnswerRequest, completion: Completion) -> None:
        logprobs = completion.expected_logprobs[request.encoded.unscored :]
        nll = -math.fsum(logprobs)
        # What is no number is measured again, and refused, with the other likelihoods.
        if self.likelihoods and logprobs and math.isfinite(nll):
            value = asdict(Likelihood(nll, len(logprobs)))
            self.journal.add(LIKELIHOOD, self.name, request.id, value)
        value = {
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "tokens": len(completion.tokens),
        }
        self.journal.add(ANSWER, self.name, request.id, value)
        self.advance(1)


def _answer_block(
    engine: Engine, block: Sequence[AnswerRequest], shown: frozenset[int], record: _Record
) -> None:
    from tuneserve.serve.engine import SamplingParams

    def expected(request: AnswerRequest) -> tuple[int, ...]:
        tokens = request.expected
        fits = len(request.encoded.prompt) + len(tokens) < engine.limit
        return tokens if fits and len(tokens) <= engine.most_expected else ()

    samplings = [
        SamplingParams(
            temperature=0.0,
            max_tokens=request.max_tokens,
            stop=request.until or (),
            shown=shown if request.until is None else frozenset(),
            expected=expected(request),
        )
        for request in block
    ]
    engine.generate(
        [request.encoded.prompt for request in block],
        samplings,
        on_done=lambda index, completion: record(block[index], completion),
    )


def measure_noise_floor(
    contender: Contender, requests: Sequence[AnswerRequest], journal: Journal
) -> None:
    """The model's answers once more, batched in another order: what differs is chance."""
    again = in_another_order(requests, contender.bench.seed)
    generate_answers(replace(contender, name=NOISE_FLOOR), again, journal)


def in_another_order(requests: Sequence[AnswerRequest], seed: int) -> list[AnswerRequest]:
    """The requests as they are asked for the noise floor."""
    shuffled = list(requests)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - no secret
    return shuffled
