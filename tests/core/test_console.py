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
        advance(3, note="done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("merge: 25 %")
    assert lines[0].endswith(" left")
    assert lines[1].startswith("merge: 100 %")
    assert lines[1].endswith("done")


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
