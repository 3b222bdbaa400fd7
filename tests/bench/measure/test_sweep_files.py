"""The GGUFs of a sweep, when they are needed no more."""

from __future__ import annotations

from pathlib import Path

from tuneserve.bench.measure.sweep_files import STEPS, remove_sweep_files


def test_they_go_and_what_is_somebodys_stays(tmp_path: Path) -> None:
    folder, link = tmp_path / "ladder", tmp_path / "link"
    remove_sweep_files(folder)
    folder.mkdir()
    for name in ("mine.gguf", *(step.file_name for step in STEPS)):
        (folder / name).write_text(name)
    link.symlink_to(folder)
    remove_sweep_files(link)
    assert (link.is_symlink(), len(list(folder.iterdir()))) == (False, 1 + len(STEPS))
    remove_sweep_files(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.gguf"]
    (folder / "mine.gguf").unlink()
    remove_sweep_files(folder)
    assert not folder.exists()
