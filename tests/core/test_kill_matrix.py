"""What this package writes by itself, failed at its failpoints and in each way, ends as if nothing
had happened. benchmarks/kill_matrix.py does it at each point, and with the whole stages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault_stages import BATCHES, DATA, EXPORT, JOURNAL, RUN_RECORD, SPLIT
from tests.faults import BROKEN, FULL, KILL, NOT, POWER, POWER_NAMES, WAYS, Stage, try_stage
from tuneserve.files import write_text


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory, where there is such: a disk syncs a thousand times in tens of seconds."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("stage", "every"),
    [(DATA, 1), (RUN_RECORD, 5), (SPLIT, 3), (JOURNAL, 1), (BATCHES, 11), (EXPORT, 1)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_stage_ends_the_same_whatever_stopped_it(stage: Stage, every: int, scratch: Path) -> None:
    found = try_stage(stage, scratch, every=every)
    assert found.problems == []
    assert len(found.points) > 5
    assert sum(found.outcomes.values()) == -(-len(found.points) // every) * len(WAYS)


def test_a_power_cut_shows_what_was_not_synced(scratch: Path) -> None:
    """The trials find what they are for: a name without its content, which passes for done."""

    def work() -> None:
        if not Path("done").exists():
            write_text(Path("done"), "all of it", synced=False)
            write_text(Path("more"), "", synced=False)

    stage = Stage("unsynced", lambda _: None, work, lambda folder: (folder / "done").read_text())
    found = try_stage(stage, scratch)
    assert found.outcomes[POWER_NAMES, NOT] > 0
    assert any("\0" * 9 in problem for problem in found.problems)
    assert not any(found.outcomes[way, NOT] for way in (KILL, FULL, BROKEN, POWER))
