"""progress.jsonl: what a training writes for those who watch, and what they read of it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tuneserve.finetune.training import progress_file
from tuneserve.finetune.training.progress import Progress
from tuneserve.finetune.training.progress_file import (
    ProgressFile,
    ProgressReader,
    ProgressReaders,
    read_progress,
    thinned,
)


def train(path: Path, steps: range, resumed_at: int | None = None) -> None:
    """Steps with a loss of 10 / step, and an evaluation after each second one."""
    progress = Progress(20, epochs=2.0)
    with closing(ProgressFile(path, resumed_at)) as file:
        for step in steps:
            progress.stepped(step, 0.5, 100)
            progress.loss, progress.memory = 10 / step, 1 << 30
            file.stepped(progress)
            if step % 2 == 0:
                progress.losses = {"eval": 5 / step, "general": 1.0}
                file.evaluated(progress)


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_file, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(progress_file, "_LINES_OF_THE_TIME", 1e12)
    path = tmp_path / "progress.jsonl"
    assert read_progress(path) is None
    train(path, range(1, 7))
    found = read_progress(path)
    assert found is not None
    assert found.curves.train == [(step, 10 / step) for step in range(1, 7)]
    assert found.curves.eval == [(2, 2.5), (4, 1.25), (6, pytest.approx(5 / 6))]
    assert found.curves.general == [(2, 1.0), (4, 1.0), (6, 1.0)]
    assert found.rates == [(4, 200.0), (5, 200.0), (6, 200.0)]
    assert set(found.memory) == {(step, float(1 << 30)) for step in range(1, 7)}
    figures = found.last.figures()
    assert (figures["step"], figures["epoch"]) == ("6 of 20", "0.60 of 2.00")
    assert (figures["eval loss"], figures["speed"]) == ("0.8333", "200 tokens/s")
    assert (figures["memory"], figures["left"]) == ("1.0 GiB", "7.0 s")

    # A kill came after step 6, the last checkpoint is that of step 4.
    with path.open("a") as file:
        file.write('{"step": 7, "st')
    train(path, range(5, 7), resumed_at=4)
    again = read_progress(path)
    assert again is not None
    assert [step for step, _ in again.curves.train] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in again.curves.eval] == [2, 4, 6]

    train(path, range(1, 2))  # afresh
    afresh = read_progress(path)
    assert afresh is not None
    assert afresh.curves.train == [(1, 10.0)]


def test_steps_that_come_fast_are_written_together_with_their_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_file, "_LEAST_SECONDS", 3600.0)
    train(tmp_path / "p", range(1, 21))
    found = read_progress(tmp_path / "p")
    assert found is not None
    ((step, mean),) = found.curves.train
    assert step == 20
    assert mean == pytest.approx(sum(10 / n for n in range(1, 21)) / 20)
    assert len(found.curves.eval) == 10


def test_lines_of_another_form_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p"
    lines = ['{"schema": 1}', '{"step": "x", "steps": 2}', "[1]", "{", "\xff", '{"step": 1e999}',
             '{"step": 1, "steps": 2, "loss": 1.5, "new": 1}', "[" * 100_000]  # fmt: skip
    path.write_bytes("\n".join(lines).encode("latin-1"))
    found = read_progress(path)
    assert found is not None
    assert found.curves.train == [(1, 1.5)]
    path.write_text(json.dumps({"schema": 2}) + '\n{"step": 1, "steps": 2}\n')
    assert read_progress(path) is None
    train(path, range(1, 3), resumed_at=0)
    assert read_progress(path) is not None


def test_a_thinned_curve_keeps_its_mean_and_its_end() -> None:
    curve = [(step, float(step)) for step in range(1, 1001)]
    found = thinned(curve, 100)
    assert len(found) == 100
    assert (found[0], found[-1]) == ((10, 5.5), (1000, 995.5))
    assert thinned(curve[:7], 100) == curve[:7]


LINE = '{"step": %d, "steps": 9, "losses": {"eval": %s}, "evaluated": true}\n'


def test_what_is_new_is_read_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    reader = ProgressReader(path)
    assert reader.evaluations() == []
    path.write_text('{"schema": 1}\n{"step": 1, "steps": 9, "loss": 2.0}\n' + LINE % (3, 1.5))
    assert [one.losses["eval"] for one in reader.evaluations()] == [1.5]
    with path.open("a") as file:
        file.write((LINE % (6, 1.25))[:20])
    assert len(reader.evaluations()) == 1
    with path.open("a") as file:
        file.write((LINE % (6, 1.25))[20:])
    assert [one.step for one in reader.evaluations()] == [3, 6]
    found = reader.read()
    assert found is not None
    assert (found.curves.train, found.curves.eval) == ([(1, 2.0)], [(3, 1.5), (6, 1.25)])
    path.unlink()  # a training begins, or goes on from an earlier step
    assert reader.read() is None
    path.write_text('{"schema": 1}\n' + LINE % (3, 1.0))
    assert [one.losses["eval"] for one in reader.evaluations()] == [1.0]


def test_a_file_written_afresh_in_its_place_is_read_from_its_begin(tmp_path: Path) -> None:
    """It may have the old one's inode and be longer."""
    path = tmp_path / "progress.jsonl"
    path.write_text('{"schema": 1}\n' + LINE % (3, 1.5))
    reader = ProgressReader(path)
    assert len(reader.evaluations()) == 1
    path.write_text('{"schema": 1}\n' + "".join(LINE % (step, 0.5) for step in (1, 2, 3)))
    assert [one.step for one in reader.evaluations()] == [1, 2, 3]


def test_a_look_reads_what_is_new_alone(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    readers = ProgressReaders(most=2)
    path.write_text('{"schema": 1}\n' + "".join(LINE % (step, 1.5) for step in range(1, 2001)))
    parsed: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        told = progress_file._told

        def noted(row: dict[str, Any]) -> Any:
            parsed.append(row["step"])
            return told(row)

        patch.setattr(progress_file, "_told", noted)
        for _ in range(3):
            found = readers.read(path)
        with path.open("a") as file:
            file.write(LINE % (2001, 0.5))
        assert readers.read(path) == read_progress(path)
    assert found is not None
    assert len(parsed) == 2000 + 1 + 2001
    for name in ("a", "b"):  # the oldest makes room, and is read whole if it is looked at again
        readers.read(tmp_path / name)
    assert readers.read(path) == read_progress(path)
