"""Signals that ask a server to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tuneserve.signals import asked_to_stop

TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT


@pytest.fixture
def as_before() -> Iterator[None]:
    """SIGHUP ends a process, also where the tests run under nohup."""
    former = signal.signal(HUP, signal.SIG_DFL)
    yield
    signal.signal(HUP, former)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ([HUP], [HUP]),
        ([HUP, HUP], [HUP]),
        ([INT, HUP], [INT]),
        ([HUP, TERM, INT], [HUP, TERM, INT]),
    ],
)
def test_the_end_of_the_terminal_asks_once_and_is_in_no_haste(
    sent: list[int], asked: list[int]
) -> None:
    received: list[int] = []
    with asked_to_stop(lambda number, _: received.append(number)):
        for number in sent:
            signal.raise_signal(number)
    assert received == asked


@pytest.mark.usefixtures("as_before")
def test_a_process_that_is_to_outlive_its_terminal_does() -> None:
    signal.signal(HUP, signal.SIG_IGN)  # as nohup does
    received: list[int] = []
    with asked_to_stop(lambda number, _: received.append(number)):
        signal.raise_signal(HUP)
        signal.raise_signal(TERM)
    assert received == [TERM]
    assert signal.getsignal(HUP) == signal.SIG_IGN
