from __future__ import annotations

import io

import pytest
from rich.console import Console

from tuneserve import console
from tuneserve.bars import Bar, Elapsed


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


def test_a_wait_without_parts_is_a_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with console.waiting("checking\x1b[2J"):
        assert capsys.readouterr().err == "checking\\x1b[2J\n"
    assert capsys.readouterr().err == ""


def test_a_wait_without_parts_tells_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    shown = Console(file=screen, force_terminal=True, width=20, soft_wrap=True)
    clock = iter([0.0, 7.2, 71.9])
    monkeypatch.setattr("tuneserve.bars.time.monotonic", lambda: next(clock))
    elapsed = Elapsed("checking that this base can be converted")
    for passed in ("7 s, checking", "1 min 11 s"):
        shown.print(elapsed)
        assert passed in screen.getvalue()


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


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(12.34, "12.3 layers/s"), (0.1, "0.1 layers/s"), (0.06, "17 s for one of the layers")],
)
def test_rates(rate: float, shown: str) -> None:
    assert console.human_rate(rate, "layers") == shown


@pytest.mark.parametrize(
    ("line", "width", "shown"),
    [
        ("all of it fits", 14, ["all of it fits"]),
        ("peak memory 16.2 GiB of 24", 16, ["peak memory", "  16.2 GiB of 24"]),
        ("  names: 48,900 merges equal", 20, ["  names:", "    48,900 merges", "    equal"]),
        ("next: tuneserve clean a", 20, ["next:", "  tuneserve clean a"]),
        ("/a/path/longer/than/the/line", 9, ["/a/path/longer/than/the/line"]),
        ("文字 文字 文字", 10, ["文字 文字", "  文字"]),
    ],
)
def test_lines_end_between_words(line: str, width: int, shown: list[str]) -> None:
    assert console.fitted(line, width).split("\n") == shown


def drawn(width: int, *, share: float, figures: tuple[str, str], note: str = "") -> list[str]:
    """The lines of a bar on a terminal of this width."""
    bar = Bar("write tuned-Q4_K_M.gguf")
    bar.share, bar.figures, bar.note = share, figures, note
    written = io.StringIO()
    Console(file=written, width=width, force_terminal=True, color_system=None).print(bar)
    return written.getvalue().splitlines()


@pytest.mark.parametrize("width", [50, 80, 140])
def test_no_figure_of_a_bar_is_cut(width: int) -> None:
    figures = ("1,043.2 MiB/s", "12 min 34 s left")
    lines = drawn(width, share=0.42, figures=figures, note="tensor 3")
    assert len(lines) == (2 if width < 80 else 1)
    assert all(len(line.rstrip()) <= width for line in lines)
    for told in ("write tuned-Q4_K_M.gguf", " 42% ", *figures, "tensor 3", "━━━"):
        assert any(told in line for line in lines), told


def test_a_table_that_is_too_wide_is_told_row_by_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    rows = [["tuned", "runs/a/gguf/a-Q4_K_M.gguf"]]
    console.table("GGUFs", ["model", "file"], rows)  # a log has it whole
    assert "runs/a/gguf/a-Q4_K_M.gguf" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    console.table("GGUFs", ["model", "file"], rows)
    told = capsys.readouterr().err.splitlines()
    assert told == ["GGUFs", "  model: tuned", "    file:", "      runs/a/gguf/a-Q4_K_M.gguf"]
    console.table("Types", ["type", "tensors"], [["Q4_K", "12"]])
    assert "─" in capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", "34")
    console.table("Parts", ["part", "size"], [["some words that may be broken", "12.3 GiB"]])
    shown = capsys.readouterr().err
    assert "─" in shown
    assert "12.3 GiB" in shown


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
