from __future__ import annotations

import io

import pytest

from tuneserve import console


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**42, "4096.0 GiB"),
    ],
)
def test_bytes(count: int, shown: str) -> None:
    assert console.human_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(8.06, "8.1 s"), (59.94, "59.9 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_seconds(seconds: float, shown: str) -> None:
    assert console.human_seconds(seconds) == shown


def test_plain_lines_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.0)
    with console.progress("merge", 4, unit="tensors") as advance:
        advance(1)
        advance(1)
        advance(2, note="done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("merge: 25 %")
    assert lines[0].endswith(", estimating the time left")
    assert lines[1].startswith("merge: 50 %")
    assert lines[1].endswith(" left")
    assert lines[2].startswith("merge: 100 %")
    assert lines[2].endswith("done")


def test_the_time_left_in_a_log_does_not_follow_from_the_first_part(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model was loaded in it, for a minute; the others take two seconds each."""
    clock = iter([0.0, 60.0, 62.0, 64.0])
    monkeypatch.setattr("tuneserve.console.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 1.0)
    with console.progress("answers", 100, unit="prompts") as advance:
        for _ in range(3):
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(", ")[2] for line in lines] == [
        "estimating the time left", "3 min 16 s left", "3 min 14 s left",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (40.2, 69.8, "40 to 70 s"),
        (3.21, 8.04, "3.2 to 8.0 s"),
        (725, 1190, "12 to 20 min"),
        (100, 130, "1.7 to 2.2 min"),
        (9000, 14_800, "2.5 to 4.1 h"),
        (90_000, 180_000, "25 to 50 h"),
    ],
)
def test_spans_of_time(low: float, high: float, shown: str) -> None:
    assert console.human_range(low, high) == shown


def test_tables_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("Types", ["type", "tensors"], [["Q4_K", "12"]])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Q4_K" in captured.err


def test_a_line_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads' lines come before or behind it."""
    written: list[str] = []

    class Recorder(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr("sys.stderr", Recorder())
    console.say("one line")
    assert [text for text in written if text] == ["one line\n"]
