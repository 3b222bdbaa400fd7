"""Contract: an adapter that was trained on a 4-bit copy keeps its gain in the weights that the copy
was made of.

A tune is fitted to the rounding of its base too, which these weights do not have. The model that
was trained, the adapter on the 4-bit copy, is computed beside it: it has to give the losses that
training recorded, and of its gain on held-out answers the merged weights keep

    (LL(merged) - LL(4-bit base)) / (LL(adapter on 4-bit base) - LL(4-bit base))

with LL the log-likelihood of an answer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tuneserve.console import percent, say
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.result import Check
from tuneserve.convert.verify.gain import AnswerScores, measure_gain
from tuneserve.convert.verify.recorded import Origin, check_recorded
from tuneserve.finetune.training.recorded import RecordedLosses

ORIGIN_CONTRACT = "merge_base keeps the gain"
_WORTH_TELLING = 0.005  # of the gain
_ROUNDING = (
    "the tune is fitted to the rounding of its 4-bit base too, which merge_base does not have; "
    'merged into the 4-bit weights (--merge-base "") all of it is kept'
)


def check_origin(
    tuned: GGUFModel,
    adapter: Path,
    origin: Origin,
    recorded: RecordedLosses | None,
    merged: AnswerScores,
    *,
    threads: int,
) -> list[Check]:
    """`recorded`: losses that training recorded, None if it did not; `merged`: answers, and how
    likely the merged weights find them."""
    # PyTorch and transformers take seconds to import.
    from tuneserve.convert.verify.reference import copy_logits

    known = recorded.examples if recorded else []
    ids = [*(item.ids for item in known), *(example.ids for example in merged.examples)]
    positions = [
        *(np.arange(len(item.ids)) for item in known),
        *(example.positions for example in merged.examples),
    ]
    say("verify: the trainer's logits (the 4-bit base, adapter on it)")
    before, after = copy_logits(tuned, origin.copy, adapter, ids, positions, threads=threads)
    count = len(known)
    checks = [check_recorded(recorded, after[:count])] if recorded else []
    scores = [
        [example.score(rows) for example, rows in zip(merged.examples, logits[count:], strict=True)]
        for logits in (before, after)
    ]
    return [*checks, check_kept(AnswerScores(merged.examples, *scores), merged, origin.least)]


def check_kept(trained: AnswerScores, merged: AnswerScores, least: float) -> Check:
    """`trained`: the answers by the 4-bit base and the adapter on it. As everywhere the point
    estimate decides, unless its interval reaches up to the whole gain or there is none."""
    kept = measure_gain(trained, merged.merged, [])
    detail = (
        f"on {kept.examples} held-out answers: log-likelihood a token {kept.base:.3f} (4-bit "
        f"base), {kept.merged:.3f} (adapter on it), {kept.file:.3f} (merged into merge_base)"
    )
    figures = {name: value for name, value in kept.to_json().items() if value is not None}
    if kept.share is None or kept.low is None or kept.high is None:
        say(f"note: merge_base: a gain can't be told from none {detail}; {_ROUNDING}")
        return Check(ORIGIN_CONTRACT, True, f"a gain can't be told from none {detail}", figures)
    within = f"{percent(kept.low)} to {percent(kept.high)}"
    told = f"{percent(kept.share)} ({within}) of the gain is kept"
    if kept.share < least and kept.high < 1.0:
        detail = f"{told} {detail}; below {percent(least, 0)}: {_ROUNDING}"
        return Check(ORIGIN_CONTRACT, False, detail, figures)
    if kept.share <= 1 - _WORTH_TELLING:
        few = "" if kept.share >= least else "too few answers to tell that share from all of it; "
        say(f"note: merge_base: {told}; {few}{_ROUNDING}")
    return Check(ORIGIN_CONTRACT, True, f"{told} {detail}", figures)
