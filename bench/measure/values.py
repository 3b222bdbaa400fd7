"""The kinds of measurements in a journal, and what is in each.

A journal may come from another machine, or have been edited by hand: what does not have the form
of its kind is no measurement.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LIKELIHOOD, CHOICE, ANSWER = "likelihood", "choice", "answer"
TEXT, SPEED = "text", "speed"
SERVED = "served"
FIDELITY, JUDGED = "fidelity", "judged"

Number = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class _Value(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Exact(_Value):
    """One that is made an object of as it stands."""

    model_config = ConfigDict(extra="forbid")


class _Likelihood(_Value):
    nll: float
    tokens: Count


class _Answer(_Value):
    text: str
    finish_reason: str
    tokens: Count
    thoughts: str = ""
    sampled: bool = False


class _Failed(_Value):
    failed: str


class _Text(_Value):
    nll: list[float] = Field(min_length=1)
    tokens_per_chunk: Annotated[int, Field(gt=0)]


class _Spread(_Exact):
    mean: Number
    deviation: Number
    repetitions: Count


class _Rate(_Spread):
    tokens: Count


class _Speed(_Exact):
    load_seconds: Number
    prompt: _Rate
    generation: _Rate


class _Speeds(_Exact):
    """Of one sitting."""

    base: _Speed
    tuned: _Speed


class _Load(_Exact):
    clients: Count
    throughput: _Rate
    first_token_median: Number
    first_token_worst: Number
    requests: Count
    memory: _Spread


class _Start(_Exact):
    seconds: Number
    memory: Count
    gpu_memory: Count


class _Served(_Exact):
    """The server's start, and every number of clients, of one sitting."""

    start: _Start
    load: list[_Load] = Field(min_length=1)


class _MeanError(_Exact):
    value: float
    error: Number


class _Fidelity(_Value):
    size_bytes: Count
    bits_per_weight: Number
    perplexity: _MeanError
    kld: _MeanError | None
    same_top: _MeanError | None


_FORMS: dict[str, tuple[type[_Value], ...]] = {
    LIKELIHOOD: (_Likelihood,),
    CHOICE: (_Likelihood,),
    ANSWER: (_Answer, _Failed),
    JUDGED: (_Answer, _Failed),
    TEXT: (_Text,),
    SPEED: (_Speeds,),
    SERVED: (_Served,),
    FIDELITY: (_Fidelity,),
}


def is_measurement(kind: str, value: object) -> bool:
    """Has a value from a file the form of its kind? Of other kinds only that they are objects is
    known."""
    if not isinstance(value, dict):
        return False
    return kind not in _FORMS or any(_fits(form, value) for form in _FORMS[kind])


def _fits(form: type[_Value], value: object) -> bool:
    try:
        form.model_validate(value)
    except (ValidationError, RecursionError):
        return False
    return True
