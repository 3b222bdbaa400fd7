"""How long a training takes: its work at this machine's pace."""

from __future__ import annotations

from tuneserve.finetune.memory.search import MemoryStrategy
from tuneserve.finetune.timing.calibration import Pace
from tuneserve.finetune.timing.work import Work
from tuneserve.model_shape import ModelShape
from tuneserve.records import Record

# Of what a layer takes beside its matrix products, the share that training takes too. On a CPU one
# operation after the other, where 1.06 was measured in bf16 (AMX) and 0.68 in fp32 (AVX2), or
# compiled; on a GPU in Unsloth's kernels (reckoned from an H100's tokens a second, not measured).
_EAGER_SHARE = 0.85
_COMPILED_SHARE = 0.32
_KERNEL_SHARE = 0.5
# Computing activations again is a forward pass more, on a CPU.
_RECOMPUTING = 0.33
# Of what is computed forward alone: an evaluation's tokens, and the layers before the first that
# trains.
_FORWARD_SHARE = 0.36
# Compiling the layers, on two cores; little where an earlier run did it.
_COMPILING_SECONDS = 75.0
# The estimate is this far off at the most, either way, by what the pace is known from.
_OFF_BY_RUN = 1.2
_OFF_ON_CPU = 1.35
_OFF_ON_GPU = 1.6
# Of a mixture the experts are timed as one dense layer.
_OFF_OF_MIXTURE = 1.5


class TimeEstimate(Record):
    """How long training takes: `seconds` at the least and at the most, with evaluations and without
    loading the base; the examples' own tokens in a second; what the pace is known from."""

    seconds: tuple[float, float]
    tokens_per_second: float
    known_from: str


def by_pace(
    pace: Pace, work: Work, strategy: MemoryStrategy, shape: ModelShape, *, device: str
) -> TimeEstimate:
    """The time that follows from a calibration of this machine."""
    each = token_seconds(pace, work, strategy, shape, device=device)
    off = _OFF_ON_GPU if device == "cuda" else _OFF_ON_CPU
    if shape.experts is not None:
        off *= _OFF_OF_MIXTURE
    source = f"a calibration of this machine ({pace.seconds:.0f} s)"
    compiling = _COMPILING_SECONDS if strategy.compiled else 0.0
    return _estimate(work, each, off, source, compiling=compiling)


def by_run(tokens_per_second: float, work: Work, run: str) -> TimeEstimate:
    """The time that follows from how fast an earlier run trained on this machine."""
    source = f"run '{run}', which trained this base on this machine"
    return _estimate(work, 1 / tokens_per_second, _OFF_BY_RUN, source)


def token_seconds(
    pace: Pace, work: Work, strategy: MemoryStrategy, shape: ModelShape, *, device: str
) -> float:
    """Seconds that training takes for each of the examples' own tokens."""
    beside = pace.layer - pace.products
    computed = strategy.backward + _FORWARD_SHARE * (shape.layers - strategy.backward)
    if device == "cuda":
        layers = computed * (pace.products + _KERNEL_SHARE * beside)
        # What the strategy costs is in units of a token of which nothing is computed again.
        return (work.computed * layers + work.logits * pace.head) * strategy.cost
    share = _COMPILED_SHARE if strategy.compiled else _EAGER_SHARE
    again = strategy.decisions.gradient_checkpointing != "false"
    layers = computed * (pace.products + share * beside) * (1 + _RECOMPUTING * again)
    return work.computed * layers + work.logits * pace.head


def _estimate(
    work: Work, each: float, off: float, source: str, *, compiling: float = 0.0
) -> TimeEstimate:
    seconds = each * (work.tokens + _FORWARD_SHARE * work.evaluated)
    return TimeEstimate(
        seconds=(round(seconds / off, 1), round(seconds * off + compiling, 1)),
        tokens_per_second=round(1 / each, 1),
        known_from=source,
    )
