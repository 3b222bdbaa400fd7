"""From a generated answer to what is compared: lm-eval's filters, and its exact_match."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuneserve.bench.tasks.lm_eval.config import FilterConfig, FilterStep, MetricConfig
from tuneserve.bench.tasks.lm_eval.documents import Document
from tuneserve.bench.tasks.scorers.bounded_patterns import BoundedPatterns, problem_of
from tuneserve.bench.tasks.scorers.marks import Mark, Scorer, plain
from tuneserve.errors import UsageError
from tuneserve.recipe import nearest

Filter = Callable[[str, Document], str]
NOTHING = "[invalid]"
"""What lm-eval scores where a pattern finds nothing."""
_NUMBER_AT_END = r"#### (\-?[0-9\.\,]+)"
_PATTERN = ("regex_pattern", "group_select", "fallback")
_SETTINGS: dict[str, tuple[str, ...]] = {
    "take_first": (),
    "take_first_k": ("k",),
    "majority_vote": (),
    "remove_whitespace": (),
    "lowercase": (),
    "uppercase": (),
    "map": ("mapping_dict", "default_value"),
    "regex": _PATTERN,
    "multi_choice_regex": (*_PATTERN, "ignore_case", "ignore_punctuation", "regexes_to_ignore"),
}
"""The filters that are read, and the settings of each."""
_CHOOSE = ("take_first", "take_first_k", "majority_vote")
"""Filters that choose from several answers to one prompt; here there is one."""


def make_filter(
    config: FilterConfig, place: Callable[..., str], patterns: BoundedPatterns
) -> Filter:
    """The steps as one function, which raises ScorerError for an answer that a pattern takes too
    long for. `place` says where a key of the filter stands. Raises UsageError for a step that is
    not read here, for settings that it has not, for a bad pattern."""
    steps: list[Filter] = []
    for number, step in enumerate(config.filter):
        at = place("filter", number, "function")
        _check(step, at, last=number == len(config.filter) - 1)
        steps.append(_step(step, patterns))

    def apply(answer: str, document: Document) -> str:
        for step in steps:
            answer = step(answer, document)
        return answer

    return apply


def _check(step: FilterStep, at: str, *, last: bool) -> None:
    known = _SETTINGS.get(step.function)
    if known is None:
        raise UsageError(
            f"filter '{step.function}' is not used here "
            f"({nearest(step.function, list(_SETTINGS))})",
            where=at,
        )
    strange = sorted(step.model_fields_set - {"function", *known})
    if strange:
        raise UsageError(f"filter '{step.function}' has no {', '.join(strange)}", where=at)
    if step.function in _CHOOSE and step.k not in (None, 1):
        raise UsageError("there is one answer to a prompt, so k can only be 1", where=at)
    if step.function == "take_first" and not last:
        raise UsageError("take_first has to be the last filter", where=at)
    if step.function == "map" and not step.mapping_dict:
        raise UsageError("map needs mapping_dict", where=at)
    for pattern in (step.regex_pattern or "", *(step.regexes_to_ignore or ())):
        if problem := problem_of(pattern):
            raise UsageError(f"{step.function}: bad pattern: {problem}", where=at)


def _step(step: FilterStep, patterns: BoundedPatterns) -> Filter:
    match step.function:
        case "remove_whitespace":
            return lambda answer, _: answer.strip()
        case "lowercase":
            return lambda answer, _: answer.lower()
        case "uppercase":
            return lambda answer, _: answer.upper()
        case "map":
            known = {key: str(value) for key, value in (step.mapping_dict or {}).items()}
            otherwise = NOTHING if step.default_value is None else str(step.default_value)
            return lambda answer, _: known.get(answer, otherwise)
        case "regex":
            return _regex(step, patterns)
        case "multi_choice_regex":
            return _choice_finder(step, patterns)
    return lambda answer, _: answer


def _fallback(step: FilterStep) -> str:
    return NOTHING if step.fallback is None else step.fallback


def _regex(step: FilterStep, patterns: BoundedPatterns) -> Filter:
    find, fallback = _finder(step, patterns), _fallback(step)

    def apply(answer: str, _: Document) -> str:
        found = find(answer)
        return fallback if found is None else found

    return apply


def _finder(step: FilterStep, patterns: BoundedPatterns) -> Callable[[str], str | None]:
    """What the pattern finds, without white space around it; None for nothing. Of all that is found
    that of the number that is wanted (from behind, if negative): of several groups the first that
    is not empty."""
    pattern = _NUMBER_AT_END if step.regex_pattern is None else step.regex_pattern
    wanted = step.group_select or 0

    def find(answer: str) -> str | None:
        match = patterns.find(pattern, answer, wanted)
        if isinstance(match, list):
            match = next(filter(None, match), None)
        return None if match is None else match.strip()

    return find


def _choice_finder(step: FilterStep, patterns: BoundedPatterns) -> Filter:
    """The letter of a choice, '(B)': what the pattern finds, else the first choice whose text
    stands in the answer, else a letter after a colon."""
    find, fallback = _finder(step, patterns), _fallback(step)
    wanted = step.group_select or 0

    def simplified(text: str) -> str:
        for pattern in step.regexes_to_ignore or ():
            text = patterns.remove(pattern, text)
        text = text.lower() if step.ignore_case else text
        if step.ignore_punctuation:
            text = "".join(one for one in text if not unicodedata.category(one).startswith("P"))
        return text

    def apply(answer: str, document: Document) -> str:
        if given := find(answer):
            return given
        choices = document.values.get("choices")
        if not isinstance(choices, list):
            raise UsageError("multi_choice_regex needs a list 'choices'", where=document.where)
        letters = [chr(ord("A") + number) for number in range(len(choices))]
        texts = {
            simplified(str(choice).strip()): f"({letter})"
            for choice, letter in zip(choices, letters, strict=True)
        }
        longest_first = sorted(texts, key=len, reverse=True)
        named = _nth("|".join(map(re.escape, longest_first)), simplified(answer), wanted)
        if named:
            return texts.get(named, named)
        letter = _nth(rf":\s*({'|'.join(letters)})", answer, wanted)
        return f"({letter})" if letter else fallback

    return apply


def _nth(pattern: str, text: str, number: int) -> str | None:
    """The match of that number of a pattern made here, of choices as they stand: it takes no
    long time."""
    matches = re.findall(pattern, text)
    return str(matches[number]).strip() if -len(matches) <= number < len(matches) else None


def check_patterns(metric: MetricConfig, at: str) -> None:
    """Raise UsageError for a pattern that can't be read."""
    for pattern in metric.regexes_to_ignore or ():
        if problem := problem_of(pattern):
            raise UsageError(f"regexes_to_ignore: bad pattern {pattern!r}: {problem}", where=at)


def exact_match(metric: MetricConfig, filtered: Filter, document: Document,
                references: Sequence[str], patterns: BoundedPatterns) -> Scorer:  # fmt: skip
    """The scorer of a document's answers: 1 if what the filter leaves of one equals a reference,
    both without what the metric looks away from. Raises ScorerError where a pattern takes too long
    for a reference."""
    dropped: Mapping[int, Any] = str.maketrans(
        "", "",
        (string.punctuation if metric.ignore_punctuation else "")
        + (string.digits if metric.ignore_numbers else ""),
    )  # fmt: skip

    def simplified(text: str) -> str:
        for pattern in metric.regexes_to_ignore or ():
            text = patterns.remove(pattern, text)
        return (text.lower() if metric.ignore_case else text).translate(dropped)

    wanted = {simplified(reference) for reference in references}

    def mark(answer: str, _: str) -> Mark:
        found = filtered(answer, document)
        score = float(simplified(found) in wanted)
        return plain(score, found="none" if found == NOTHING else "one")

    return Scorer(mark)
