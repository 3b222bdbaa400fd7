"""Every fuzz target for a moment, with the mutator of this repository; `make fuzz` runs them long.

What once broke one is in fuzz/corpus/ and must not break it again. The time is CPU time, so that a
busy machine changes nothing.
"""

from __future__ import annotations

import time
from random import Random

import pytest

from fuzz.__main__ import corpus_of
from fuzz.mutate import mutated
from fuzz.target import Target
from fuzz.targets import TARGETS

SECONDS = 1.5


@pytest.fixture(params=TARGETS.values(), ids=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


def test_good_inputs_are_accepted(target: Target) -> None:
    for name, data in target.seeds().items():
        assert target.run(data), name


def test_damaged_inputs_are_refused_or_read(target: Target) -> None:
    corpus = corpus_of(target)
    for data in corpus:
        target.run(data)
    seed = Random().randrange(2**32)  # pytest-randomly seeds it
    random = Random(seed)
    ends = time.process_time() + SECONDS
    while time.process_time() < ends:
        data = mutated(random.choice(corpus), corpus, target.words, random)
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"{target.name}: {data!r}") from error
