"""Tasks rouge_l and chrf: how much of the reference's wording an answer has, in any script."""

from __future__ import annotations

import importlib
import re
import unicodedata
from typing import Any

from tuneserve.bench.tasks.scorers import texts
from tuneserve.bench.tasks.scorers.marks import Mark, Scorer, plain
from tuneserve.errors import UsageError

METRICS_HINT = "Install it: pip install 'tuneserve[bench]'"
_STEMMED = re.compile(r"[a-z0-9]{4,}")  # as rouge-score has it: longer than three, English


class _Tokenizer:
    """The tokens of `texts.tokens`, those of English stemmed (Porter 1980)."""

    def __init__(self) -> None:
        self._stemmer = _optional("nltk.stem.porter", "rouge-score").PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        return [
            self._stemmer.stem(token) if _STEMMED.fullmatch(token) else token
            for token in texts.tokens(text)
        ]


def rouge_l_scorer() -> Scorer:
    """ROUGE-L F1 (Lin 2004) with stemming, from the rouge-score package; its tokens are words, or
    characters in scripts without spaces between words (`texts.tokens`). Of English text it is what
    rouge-score alone gives."""
    module = _optional("rouge_score.rouge_scorer", "rouge-score")
    scorer = module.RougeScorer(["rougeL"], tokenizer=_Tokenizer())

    def mark(answer: str, reference: str) -> Mark:
        return plain(
            float(scorer.score(reference, answer)["rougeL"].fmeasure), found=_found(answer)
        )

    return Scorer(mark, _no_tokens)


def chrf_scorer() -> Scorer:
    """chrF (Popović 2015) of each answer, in [0, 1], from the sacrebleu package: F2 over character
    n-grams of one to six, spaces left out. Composed and decomposed letters are the same."""
    metric = _optional("sacrebleu.metrics", "sacrebleu").CHRF()

    def mark(answer: str, reference: str) -> Mark:
        given, wanted = (
            unicodedata.normalize("NFC", texts.unformatted(text)) for text in (answer, reference)
        )
        score = min(1.0, float(metric.sentence_score(given, [wanted]).score) / 100)
        return plain(score, found=_found(answer))

    return Scorer(mark, lambda reference: "" if reference.split() else "is empty")


def _found(answer: str) -> Any:
    return "one" if texts.tokens(answer) else "none"


def _no_tokens(reference: str) -> str:
    return "" if texts.tokens(reference) else "has neither letters nor digits"


def _optional(module: str, package: str) -> Any:
    """A module of the extra 'bench', or UsageError saying how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(
            f"this task needs the package {package}", where="bench.task", hint=METRICS_HINT
        ) from None
