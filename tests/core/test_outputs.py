from __future__ import annotations

import os
from pathlib import Path

import pytest

from tuneserve.errors import UsageError
from tuneserve.outputs import check_output, write_output


def test_only_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    path.touch()  # as a job's summary is there, empty
    for text in ("<!-- mark -->\none", "<!-- mark -->\ntwo"):
        write_output(path, text, "<!-- mark -->")
        assert path.read_text() == text
    path.write_text("# Thesis")
    with pytest.raises(UsageError, match="is not replaced"):
        write_output(path, "<!-- mark -->\n", "<!-- mark -->")
    assert path.read_text() == "# Thesis"
    with pytest.raises(UsageError, match="no file"):
        check_output(tmp_path, "<!-- mark -->")


def test_a_stream_is_written_into(tmp_path: Path) -> None:
    with (tmp_path / "printed").open("a+") as file:
        print("above", file=file, flush=True)
        name = Path(f"/proc/self/fd/{file.fileno()}")
        (tmp_path / "stdout").symlink_to(name)
        for place in (name, tmp_path / "stdout", Path(os.devnull)):
            write_output(place, "text\n", "text")
    assert (tmp_path / "printed").read_text() == "above\ntext\ntext\n"
    assert Path(os.devnull).is_char_device()
