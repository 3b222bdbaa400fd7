"""Work that the garbage collector leaves alone."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from tuneserve.serve.api import uncollected
from tuneserve.serve.api.resting import RestingThread
from tuneserve.serve.api.uncollected import Uncollected


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()
    assert gc.isenabled()


def make() -> list[list[int]]:
    """Objects that the collector would look at."""
    assert not gc.isenabled()
    return [[] for _ in range(10_000)]


def test_what_was_made_is_left_alone_while_more_waits_to_be() -> None:
    more = threading.Event()
    with RestingThread("test") as thread:
        first = thread.submit(make)
        second = thread.submit(more.wait)
        made = first.result()
        assert gc.get_freeze_count() >= len(made)
        more.set()
        assert second.result()
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_what_fails_or_is_given_up_is_not_waited_for() -> None:
    more = threading.Event()
    with RestingThread("test") as thread:
        running = thread.submit(more.wait)
        given_up = thread.submit(make)
        assert given_up.cancel()
        failing = thread.submit(divmod, 7, 0)
        more.set()
        assert running.result()
        assert isinstance(failing.exception(), ZeroDivisionError)
    assert gc.get_freeze_count() == 0
    with pytest.raises(RuntimeError):
        thread.submit(make)
    assert gc.get_freeze_count() == 0


def test_garbage_is_collected_though_there_is_no_end_of_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uncollected, "LONGEST", 0.0)
    collected: list[None] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(None))
    aside = Uncollected()
    aside.expect()
    for count in (1, 2):
        with aside.making():
            pass
        assert len(collected) == count
    assert gc.get_freeze_count() > 0
    aside.expected_no_more()
    assert gc.get_freeze_count() == 0
