"""Near-duplicates: texts that say nearly the same as another.

The similarity of two texts is the Jaccard index of their character n-grams, each n-gram weighted by
its inverse document frequency. What many texts have in common (the wording of the task) so counts
for little: "What is 12 + 7?" and "What is 31 + 7?" are no near-duplicates.

Two texts are near-duplicates if the similarity over all their n-grams reaches the limit, and also
the one over their rare n-grams. The second is computed first, for all pairs at once by a sparse
matrix product; the first only for the pairs that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NGRAM = 5
"""Characters in an n-gram."""

# An n-gram is common if more texts than this, and more than this share of them, have it. Its weight
# is small, and comparing it would take most of the time.
_COMMON_TEXTS = 50
_COMMON_SHARE = 0.005
# N-grams of all texts together that are compared. Of more, those with the smallest hashes are
# taken, so that every text is sampled alike.
_MOST_NGRAMS = 20_000_000
_ROWS_AT_A_TIME = 512
# Sums of the same weights in another order differ in their last digits.
_ROUNDING = 1e-9
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, its bits well mixed


@dataclass(frozen=True)
class SimilarPair:
    """The text with the index `text` and the held-out text with the index `held` are
    near-duplicates."""

    text: int
    held: int
    similarity: float


def find_near_duplicates(
    texts: Sequence[str], held: Sequence[str], least: float
) -> list[SimilarPair]:
    """The texts whose similarity to one of `held` is at least `least` (above 0, to 1), each with
    the most similar one, in the order of `texts`."""
    import numpy as np

    if not texts or not held:
        return []
    every, common = _weighted_ngrams([*texts, *held])
    rare = every.copy()
    rare.data[common[rare.indices]] = 0.0
    rare.eliminate_zeros()
    sums = np.asarray(rare.multiply(rare).sum(axis=1)).ravel()
    ours, theirs = rare[: len(texts)], rare[len(texts) :].T.tocsc()
    best: dict[int, SimilarPair] = {}
    for start in range(0, len(texts), _ROWS_AT_A_TIME):
        # Entries are square roots of weights: a product sums the weights of what two texts share.
        shared = (ours[start : start + _ROWS_AT_A_TIME] @ theirs).tocoo()
        rows = start + shared.row
        union = sums[rows] + sums[len(texts) + shared.col] - shared.data
        for place in (shared.data >= (least - _ROUNDING) * union).nonzero()[0]:
            text, other = int(rows[place]), int(shared.col[place])
            similarity = _similarity(every[text], every[len(texts) + other])
            known = best[text].similarity if text in best else 0.0
            if similarity >= least - _ROUNDING and similarity > known:
                best[text] = SimilarPair(text, other, similarity)
    return [best[text] for text in sorted(best)]


def _similarity(one: Any, other: Any) -> float:
    """Jaccard index of two rows of weights' square roots."""
    shared = one.multiply(other).sum()
    union = one.multiply(one).sum() + other.multiply(other).sum() - shared
    return float(min(shared / union, 1.0))


def _weighted_ngrams(texts: Sequence[str]) -> tuple[Any, npt.NDArray[np.bool_]]:
    """Sparse matrix [texts, distinct n-grams], the square root of an n-gram's weight where a text
    has it, and [distinct n-grams]: is it common to many texts? One that all have has no weight."""
    import numpy as np
    from scipy import sparse

    hashes = [_ngrams(text) for text in texts]
    total = sum(map(len, hashes))
    if total > _MOST_NGRAMS:
        limit = np.uint64(2**64 / total * _MOST_NGRAMS)
        hashes = [own[own < limit] for own in hashes]
    distinct, columns = np.unique(np.concatenate(hashes), return_inverse=True)
    frequency = np.bincount(columns, minlength=len(distinct))
    weights = np.sqrt(np.log(len(texts) / frequency))
    ends = np.cumsum([0, *map(len, hashes)])
    matrix = sparse.csr_matrix((weights[columns], columns, ends), shape=(len(texts), len(distinct)))
    matrix.eliminate_zeros()
    return matrix, frequency > max(_COMMON_TEXTS, _COMMON_SHARE * len(texts))


def _ngrams(text: str) -> npt.NDArray[np.uint64]:
    """Hashes of a text's n-grams of NGRAM characters, each once; a short text is one."""
    import numpy as np

    padded = text.ljust(NGRAM)
    codes = np.frombuffer(padded.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, NGRAM)
    hashes = np.zeros(len(windows), dtype=np.uint64)
    for place in range(NGRAM):
        hashes = (hashes + windows[:, place]) * np.uint64(_MULTIPLIER)
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes)
