"""Contract: the file keeps what the tune has gained.

Held-out reference answers are scored as training scored them: teacher-forced, end token included.
With LL, the log-likelihood of an answer, of the gain is kept

    (LL(file) - LL(base)) / (LL(merged) - LL(base))

where base and merged are the trainer's models. The point estimate decides: below the limit the tune
is more likely lost than not, however wide the interval. Where the interval reaches up to the whole
gain, or the gain itself can't be told from none (few examples, a short training), the share of the
tensors' updates that is kept decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuneserve.arrays import Doubles, Floats, Ids
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import percent, say
from tuneserve.convert.result import Check, GainKept, TensorUpdate
from tuneserve.convert.verify.logits import fits_gpu, make_context, open_model
from tuneserve.convert.verify.ratio import cluster_of, ratio
from tuneserve.convert.verify.update import kept_in_all
from tuneserve.divergence import log_softmax
from tuneserve.llama.lora import load_adapter, use_adapter

GAIN_CONTRACT = "the gain is kept"
MOST_EXAMPLES = 64
MOST_POSITIONS = 4096
LONGEST = 512
# Parameters times positions that a thread computes of the reference, about ten seconds.
WORK = 2e11
# Bytes that the reference's logits at the scored positions may take.
SCORED_BYTES = 256 * 1024 * 1024
FEWEST_POSITIONS = 4  # scored of an answer
WORST = 5  # tensors named


@dataclass(frozen=True)
class Scored:
    """An example whose answer is scored: `ids` go in, row `positions[i]` of their logits predicts
    `targets[i]`. `whole`: all tokens of the answer are among the targets."""

    ids: list[int]
    positions: Ids
    targets: Ids
    whole: bool
    cluster: object

    def score(self, rows: Floats) -> Score:
        """`rows`: the logits [len(positions), vocabulary]."""
        places = np.arange(len(self.targets))
        likelihood = float(log_softmax(rows)[places, self.targets].sum())
        return Score(likelihood, rows.argmax(axis=1))


@dataclass(frozen=True)
class Score:
    """Log-likelihood (nats) of an answer's scored tokens, and the most likely token at each."""

    likelihood: float
    top: Ids

    def is_right(self, scored: Scored) -> bool:
        """Is the reference what the model writes greedily?"""
        return bool((self.top == scored.targets).all())


@dataclass(frozen=True)
class AnswerScores:
    """The scored examples under the trainer's models."""

    examples: list[Scored]
    base: list[Score]
    merged: list[Score]


def choose_answers(
    encoded: Iterable[EncodedExample], *, work: int, vocabulary: int, thoughts: bool
) -> list[Scored]:
    """As many examples as `work` positions allow when all are filled up to the longest, and at most
    MOST_EXAMPLES.

    `thoughts`: they are trained and scored too. Long prompts lose their beginning.
    """
    limit = min(LONGEST, max(work, 64))
    chosen: list[tuple[EncodedExample, int]] = []
    longest = 0
    for number, item in enumerate(encoded):
        longest = max(longest, min(limit, len(item.prompt) + len(item.answer)))
        if chosen and (len(chosen) + 1) * longest > work:
            break
        chosen.append((item, number))
        if len(chosen) == MOST_EXAMPLES:
            break
    room = SCORED_BYTES // (2 * 4 * vocabulary)
    each = max(FEWEST_POSITIONS, room // max(1, len(chosen)))
    found = [_scored(item, number, limit, each, thoughts) for item, number in chosen]
    return [item for item in found if len(item.targets)]


def _scored(item: EncodedExample, number: int, limit: int, most: int, thoughts: bool) -> Scored:
    """The end of the prompt and the beginning of the answer, `limit` tokens of them at most, and
    `most` places of the answer, evenly spread."""
    skipped = 0 if thoughts else item.unscored
    answer = item.answer[: max(limit - len(item.prompt), skipped + limit // 2)]
    ids = (item.prompt + answer)[-limit:]
    count = min(len(answer) - skipped, len(ids) - 1)
    if count < 1:
        return Scored(ids, np.zeros(0, np.int64), np.zeros(0, np.int64), False, number)
    places = np.arange(len(ids) - 1 - count, len(ids) - 1)
    kept = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
    positions = places[kept]
    whole = len(answer) == len(item.answer) and len(kept) == len(item.answer) - skipped
    cluster = cluster_of(item.example.source, number)
    return Scored(ids[:-1], positions, np.array(ids)[positions + 1], whole, cluster)


def score_answers(
    examples: Sequence[Scored],
    whole: Mapping[tuple[int, ...], Sequence[Floats]],
    at_positions: Mapping[tuple[int, ...], Sequence[Floats]],
) -> AnswerScores:
    """The examples under base and merged weights. By an example's ids: the logits of both, of the
    `whole` sequence or `at_positions` alone."""

    def rows(example: Scored) -> Sequence[Floats]:
        key = tuple(example.ids)
        if key in whole:
            return [logits[example.positions] for logits in whole[key]]
        return at_positions[key]

    scores = [tuple(map(example.score, rows(example))) for example in examples]
    base, merged = zip(*scores, strict=True)
    return AnswerScores(list(examples), list(base), list(merged))


def file_scores(
    path: Path,
    examples: Sequence[Scored],
    *,
    threads: int,
    lora: Path | None = None,
    at_hand: Mapping[tuple[int, ...], Floats],
) -> list[Score]:
    """What a file gives the examples; `lora` is a GGUF to put on; `at_hand`: its logits of whole
    sequences that are there already."""
    longest = max(len(example.ids) for example in examples)
    scores = []
    on_gpu = fits_gpu(path)
    with (
        open_model(path, on_gpu=on_gpu) as model,
        make_context(model, longest, threads=threads, on_gpu=on_gpu) as context,
    ):
        if lora is not None:
            use_adapter(context, load_adapter(model, lora))
        for example in examples:
            rows = at_hand.get(tuple(example.ids))
            first = 0 if rows is not None else int(example.positions[0])
            if rows is None:
                rows = context.logits(example.ids, start=first)
            scores.append(example.score(rows[example.positions - first]))
    return scores


def measure_gain(
    answers: AnswerScores, found: Sequence[Score], updates: Sequence[TensorUpdate]
) -> GainKept:
    """`found` are the file's scores."""
    base, merged, file = (
        np.array([score.likelihood for score in scores])
        for scores in (answers.base, answers.merged, found)
    )
    share = ratio(file - base, merged - base, [example.cluster for example in answers.examples])
    tokens = sum(len(example.targets) for example in answers.examples)
    whole = [n for n, example in enumerate(answers.examples) if example.whole]

    def right(scores: Sequence[Score]) -> int:
        return sum(scores[n].is_right(answers.examples[n]) for n in whole)

    def mean(values: Doubles) -> float:
        return float(values.sum()) / tokens

    same = sum(bool((answers.merged[n].top == found[n].top).all()) for n in whole)
    return GainKept(
        share=share.value if share else None,
        low=share.low if share else None,
        high=share.high if share else None,
        base=mean(base), merged=mean(merged), file=mean(file),
        examples=len(answers.examples), tokens=tokens,
        answers=len(whole), same_answers=same,
        right_base=right(answers.base), right_merged=right(answers.merged), right_file=right(found),
        update_kept=kept_in_all(updates) if updates else None,
    )  # fmt: skip


def compare_base_file(
    kept: GainKept, answers: AnswerScores, found: Sequence[Score], of_base: Sequence[Score]
) -> GainKept:
    """`kept` with what lies between the file (`found`) and the base's own one."""
    base, merged, file, base_file = (
        np.array([score.likelihood for score in scores])
        for scores in (answers.base, answers.merged, found, of_base)
    )
    clusters = [example.cluster for example in answers.examples]
    beside = ratio(file - base_file, merged - base, clusters)
    return kept.model_copy(update={
        "base_file": float(base_file.sum()) / kept.tokens,
        "beside_base": beside and beside.value, "beside_high": beside and beside.high,
    })  # fmt: skip


def check_gain(kept: GainKept, updates: Sequence[TensorUpdate], limit: float) -> Check:
    """Is the share of the gain (or where there is no telling, of the updates) at least `limit`?"""
    passed = kept.keeps(limit)
    detail = kept.describe()
    if passed and kept.share is not None and kept.share < limit:
        if kept.high is not None and kept.high < 1.0:
            detail += (
                "; what is missing the quantization takes from the base too: it is not the tune. A "
                "finer one (Q6_K, Q8_0), or an importance matrix, takes less"
            )
        else:
            detail += "; too few answers to tell that share from all of it"
        say(f"note: the gain: {detail}")
    if not passed:
        lost = [f"{update.name} ({update.type}) keeps {percent(update.kept, 0)}"
                for update in updates[:WORST] if update.kept < limit]  # fmt: skip
        detail += f"; below {percent(limit, 0)}: the tune is lost in rounding"
        if lost:
            detail += f". Most is lost in {', '.join(lost)}"
        detail += (
            ". What helps: finer types ([convert] keep_gain = true and a larger max_growth), "
            "another quantization (Q6_K, Q8_0), or the base with the adapter beside it "
            "(tuneserve convert --adapter-only)"
        )
    figures = {name: value for name, value in kept.to_json().items() if value is not None}
    return Check(GAIN_CONTRACT, passed, detail, figures)
