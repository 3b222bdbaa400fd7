"""Scorers that give part of a point: JSON by field, ROUGE-L, chrF, a user's Python function."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError

_FENCE = re.compile(r"\A```\w*\s*(.*?)\s*```\Z", re.DOTALL)
METRICS_HINT = "Install it: pip install 'tuneserve[metrics]'"


def json_fields(answer: str, reference: str) -> float:
    """Share of fields that are equal, of all that either side has; 0 where either is no JSON.

    A field is a leaf with its path; numbers are equal by value (1 and 1.0), lists by position.
    """
    try:
        given, wanted = (dict(_leaves(_parse_json(text))) for text in (answer, reference))
    except (ValueError, RecursionError):
        return 0.0
    paths = given.keys() | wanted.keys()
    equal = sum(
        path in given and path in wanted and _same(given[path], wanted[path]) for path in paths
    )
    return equal / len(paths)


def _parse_json(text: str) -> Any:
    fenced = _FENCE.match(text.strip())
    return json.loads(fenced.group(1) if fenced else text)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(path, value) of every leaf; an empty object or list is a leaf."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(value, list) and value:
        for place, part in enumerate(value):
            yield from _leaves(part, (*path, place))
    else:
        yield path, value


def _same(first: Any, second: Any) -> bool:
    # Python's True equals 1; JSON's does not.
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def rouge_l_scorer() -> Callable[[str, str], float]:
    """ROUGE-L F1 (Lin 2004) with stemming, from the rouge-score package."""
    module = _optional("rouge_score.rouge_scorer", "rouge-score")
    scorer = module.RougeScorer(["rougeL"], use_stemmer=True)

    def rouge_l(answer: str, reference: str) -> float:
        return float(scorer.score(reference, answer)["rougeL"].fmeasure)

    return rouge_l


def chrf_scorer() -> Callable[[str, str], float]:
    """chrF (Popović 2015) of each answer, in [0, 1], from the sacrebleu package."""
    metric = _optional("sacrebleu.metrics", "sacrebleu").CHRF()

    def chrf(answer: str, reference: str) -> float:
        return min(1.0, float(metric.sentence_score(answer, [reference]).score) / 100)

    return chrf


def _optional(module: str, package: str) -> Any:
    """A module of the extra 'metrics', or UsageError saying how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(
            f"this task needs the package {package}", where="bench.task", hint=METRICS_HINT
        ) from None


def python_scorer(place: str) -> Callable[[str, str], float]:
    """The user's own function, named as 'file.py:function': (answer, reference) -> bool or number
    from 0 to 1. The file is run: it is the user's own code, like a Makefile."""
    path_text, _, name = place.rpartition(":")
    if not path_text or not name.isidentifier():
        raise UsageError(
            f"task 'python' needs a function as 'file.py:function' (got '{place}')",
            where="bench.scorer",
        )
    path = Path(path_text)
    spec = importlib.util.spec_from_file_location("tuneserve_user_scorer", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError("no such Python file", where=f"bench.scorer: {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"can't be run: {_said(error)}", where=f"bench.scorer: {path}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"has no function '{name}'", where=f"bench.scorer: {path}")

    where = f"bench.scorer: {place}"

    def scored(answer: str, reference: str) -> float:
        try:
            returned = function(answer, reference)
        except Exception as error:
            raise UsageError(f"failed: {_said(error)}", where=where) from error
        try:
            score = float(returned)
        except (TypeError, ValueError):
            raise UsageError(
                f"returned {returned!r:.40}, which is no number", where=where
            ) from None
        if not 0.0 <= score <= 1.0:
            raise UsageError(f"returned {score}, which is not between 0 and 1", where=where)
        return score

    return scored


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
