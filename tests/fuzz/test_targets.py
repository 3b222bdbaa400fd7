"""Every fuzz target for a moment, with the mutator of this repository; `make fuzz` runs them long.

What once broke one is in fuzz/corpus/ and must not break it again. The time is CPU time, so that a
busy machine changes nothing.
"""

from __future__ import annotations

import time
from random import Random

import jinja2
import pytest

from fuzz.__main__ import corpus_of
from fuzz.mutate import mutated
from fuzz.target import BrokenInvariantError, Target
from fuzz.targets import TARGETS, templates

SECONDS = 1.5


@pytest.fixture(params=TARGETS.values(), ids=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    return found


def test_good_inputs_are_accepted(target: Target) -> None:
    for name, data in target.seeds().items():
        assert target.run(data), name


@pytest.mark.parametrize(
    "source",
    ["{{ lipsum.__globals__['os'].listdir('/') }}", "{{ messages.append(1) }}",
     "{% for m in messages %}{{ m.clear() }}{% endfor %}"],
)  # fmt: skip
def test_a_sandbox_that_is_none_is_seen(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS["sandbox"]
    assert not target.run(source.encode())
    monkeypatch.setattr(templates, "Sandbox", jinja2.Template)
    with pytest.raises(BrokenInvariantError):
        target.run(source.encode())


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
