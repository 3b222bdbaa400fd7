"""What a file is verified against: held-out examples, and what the trainer's models make of
them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import say
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.verify.gain import (
    MOST_POSITIONS,
    WORK,
    choose_answers,
    score_answers,
)
from tuneserve.convert.verify.logits import has_gpu_room
from tuneserve.convert.verify.measured import Reference
from tuneserve.convert.verify.origin import check_origin
from tuneserve.convert.verify.recorded import TrainedLosses, check_recorded, read_recorded
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.convert.verify.weights import Weights
from tuneserve.errors import TuneserveError
from tuneserve.finetune.training.recorded import FILE

LOGIT_EXAMPLES = 8
LONGEST = 256
# Bytes that all compared logits may take: those of three reference models and two files.
LOGIT_BYTES = 512 * 1024 * 1024
POSITIONS = (128, 768)


def make_reference(
    model: GGUFModel,
    adapter: Path,
    trainer: TrainerTokenizer,
    examples: Sequence[Example],
    *,
    threads: int,
    thoughts: str,
    recorded: TrainedLosses | None = None,
    read: tuple[Weights | None, Weights | None] = (None, None),
) -> Reference:
    """Compute what the trainer's models make of held-out examples, and of the `recorded` ones.
    `read`: the base's and the merged weights, if other objects are to read them."""
    from tuneserve.convert.verify.reference import reference_logits

    chosen, sequences = choose_sequences(trainer, examples, model.vocabulary_size)
    # Those whose logits are needed anyway come first.
    ids = {item.example.id for item in chosen}
    others = (trainer.encode_example(one) for one in examples if one.id not in ids)
    answers = choose_answers(
        [*chosen, *others], work=answer_positions(model.parameters, threads),
        vocabulary=model.vocabulary_size, thoughts=thoughts == "train",
    )  # fmt: skip
    whole = set(map(tuple, sequences))
    more = [answer for answer in answers if tuple(answer.ids) not in whole]
    known = None
    if recorded:
        known = read_recorded(
            recorded.folder, longest=max(map(len, sequences)), most=1 + len(sequences) // 2
        )
        if known is None:
            say(
                f"note: no loss was recorded in {recorded.folder / FILE} to compare with: what is "
                "verified is that the files do what the adapter does now"
            )
    trained = [item.ids for item in known.examples] if known else []
    entire = [*sequences, *trained]
    say("verify: the trainer's logits (base, adapter on base, merged)")
    base, adapted, merged = reference_logits(
        model, adapter, [*entire, *(answer.ids for answer in more)],
        [*(np.arange(len(ids)) for ids in entire), *(answer.positions for answer in more)],
        threads=threads, base_weights=read[0], merged_weights=read[1],
    )  # fmt: skip
    count, total = len(sequences), len(entire)
    scores = score_answers(
        answers,
        {tuple(ids): pair for ids, *pair in zip(sequences, base, merged, strict=False)},
        {tuple(answer.ids): pair
         for answer, *pair in zip(more, base[total:], merged[total:], strict=True)},
    )  # fmt: skip
    checks = []
    if recorded and recorded.origin is not None:
        checks = check_origin(model, adapter, recorded.origin, known, scores, threads=threads)
    elif recorded and known:
        checks = [check_recorded(known, merged[count:total], other_base=recorded.other_base)]
    return Reference(
        chosen, sequences, base[:count], adapted[:count], merged[:count], scores, checks
    )


def answer_positions(parameters: int, threads: int) -> int:
    """Positions, padding included, that the reference may compute for answers, and llama.cpp after
    it: what takes about ten seconds on this machine."""
    from tuneserve.convert.verify.streamed_model import reference_device

    # Of a file with a byte for each parameter.
    if reference_device().type == "cuda" and has_gpu_room(parameters):
        return MOST_POSITIONS
    return int(min(MOST_POSITIONS, WORK * threads / parameters))


def choose_sequences(
    trainer: TrainerTokenizer, examples: Sequence[Example], vocabulary: int
) -> tuple[list[EncodedExample], list[list[int]]]:
    """Held-out examples, and their prompts with their answers, but for the end token, as ids:
    short ones first, as many tokens when all are filled up to the longest as LOGIT_BYTES hold
    logits of, within POSITIONS."""
    least, most = POSITIONS
    room = min(most, max(least, LOGIT_BYTES // (5 * 4 * vocabulary)))
    encoded = [trainer.encode_example(example) for example in examples[: 4 * LOGIT_EXAMPLES]]
    encoded.sort(key=lambda item: len(item.prompt) + len(item.answer))
    chosen: list[EncodedExample] = []
    sequences: list[list[int]] = []
    for item in encoded[:LOGIT_EXAMPLES]:
        kept = (item.prompt + item.answer)[:-1][-min(LONGEST, room) :]
        if sequences and (len(sequences) + 1) * len(kept) > room:
            break
        chosen.append(item)
        sequences.append(kept)
    if not sequences:
        raise TuneserveError("no held-out example to verify with")
    return chosen, sequences
