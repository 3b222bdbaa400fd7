"""The demo data's builder on a small archive of the original's shape."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from tuneserve import sentiment
from tuneserve.errors import TuneserveError, UsageError


def archive(lines_per_file: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in sentiment.FILES.values():
            content = "\n".join(lines_per_file).encode("latin-1")
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


LINES = [
    f"{document}_{number}\t{rating}\tsentence number {document} {number} caf\xe9 &amp;amp; more"
    for document in range(1, 5)
    for number, rating in enumerate((2.5, -1.75, 0.1, 0.5), start=1)
]


def test_examples_are_balanced_clean_and_keep_their_source() -> None:
    examples = sentiment.sentiment_examples(archive(LINES), per_cell=2)
    cells = Counter((example["group"], example["output"]) for example in examples)
    assert set(cells.values()) == {2}
    assert len(cells) == 12
    first = examples[0]
    assert first["source"] == first["id"].rpartition("_")[0]
    assert "café & more" in first["instruction"]


def test_more_examples_only_add() -> None:
    few = sentiment.sentiment_examples(archive(LINES), per_cell=1)
    more = sentiment.sentiment_examples(archive(LINES), per_cell=3)
    assert {example["id"] for example in few} < {example["id"] for example in more}


def test_asking_for_more_than_there_is() -> None:
    with pytest.raises(UsageError, match="only 4 sentences"):
        sentiment.sentiment_examples(archive(LINES), per_cell=5)


@pytest.mark.parametrize(
    ("rating", "label"),
    [(0.81, "positive"), (0.8, None), (0.3, None), (0.29, "neutral"), (-0.81, "negative")],
)
def test_labels(rating: float, label: str | None) -> None:
    assert sentiment.label_of(rating) == label


def test_wrong_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "p.tar.gz"
    with tarfile.open(package, "w:gz") as tar:
        member = tarfile.TarInfo(f"p/{sentiment.ARCHIVE}")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(TuneserveError, match="unexpected content"):
        sentiment.obtain_archive(package)
    package.write_bytes(b"not a tar")
    with pytest.raises(UsageError, match="can't be read"):
        sentiment.obtain_archive(package)
