"""From a generated answer to what is compared: lm-eval's filters, and its exact_match."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuneserve.bench.tasks.lm_eval.config import FilterConfig, FilterStep, MetricConfig
from tuneserve.bench.tasks.lm_eval.documents import Document
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


def make_filter(config: FilterConfig, place: Callable[..., str]) -> Filter:
    """The steps as one function. `place` says where a key of the filter stands. Raises UsageError
    for a step that is not read here, for settings that it has not, for a bad pattern."""
    steps: list[Filter] = []
    for number, step in enumerate(config.filter):
        at = place("filter", number, "function")
        _check(step, at, last=number == len(config.filter) - 1)
        try:
            steps.append(_step(step))
        except re.error as error:
            raise UsageError(f"{step.function}: bad pattern: {error}", where=at) from None

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


def _step(step: FilterStep) -> Filter:
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
            return _regex(step)
        case "multi_choice_regex":
            return _choice_finder(step)
    return lambda answer, _: answer


def _fallback(step: FilterStep) -> str:
    return NOTHING if step.fallback is None else step.fallback


def _regex(step: FilterStep) -> Filter:
    find, fallback = _finder(step), _fallback(step)

    def apply(answer: str, _: Document) -> str:
        found = find(answer)
        return fallback if found is None else found

    return apply


def _finder(step: FilterStep) -> Callable[[str], str | None]:
    """What the pattern finds, without white space around it; None for nothing."""
    pattern = re.compile(_NUMBER_AT_END if step.regex_pattern is None else step.regex_pattern)
    wanted = step.group_select or 0
    return lambda answer: _found(pattern, answer, wanted)


def _found(pattern: re.Pattern[str], answer: str, wanted: int) -> str | None:
    """Of all that is found that of the number `wanted` (from behind, if negative): of several
    groups the first that is not empty."""
    matches = pattern.findall(answer)
    if not -len(matches) <= wanted < len(matches):
        return None
    match = matches[wanted]
    if isinstance(match, tuple):
        match = next(filter(None, match), None)
    return None if match is None else str(match).strip()


def _choice_finder(step: FilterStep) -> Filter:
    """The letter of a choice, '(B)': what the pattern finds, else the first choice whose text
    stands in the answer, else a letter after a colon."""
    find, fallback = _finder(step), _fallback(step)
    wanted = step.group_select or 0
    ignored = [re.compile(pattern) for pattern in step.regexes_to_ignore or ()]

    def simplified(text: str) -> str:
        for pattern in ignored:
            text = pattern.sub("", text)
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
        named = _found(
            re.compile("|".join(map(re.escape, longest_first))), simplified(answer), wanted
        )
        if named:
            return texts.get(named, named)
        letter = _found(re.compile(rf":\s*({'|'.join(letters)})"), answer, wanted)
        return f"({letter})" if letter else fallback

    return apply


def check_patterns(metric: MetricConfig, at: str) -> None:
    """Raise UsageError for a pattern that can't be read."""
    for pattern in metric.regexes_to_ignore or ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"regexes_to_ignore: bad pattern {pattern!r}: {error}", where=at
            ) from None


def exact_match(metric: MetricConfig, filtered: Filter, document: Document,
                references: Sequence[str]) -> Scorer:  # fmt: skip
    """The scorer of a document's answers: 1 if what the filter leaves of one equals a reference,
    both without what the metric looks away from."""
    ignored = [re.compile(pattern) for pattern in metric.regexes_to_ignore or ()]
    dropped: Mapping[int, Any] = str.maketrans(
        "", "",
        (string.punctuation if metric.ignore_punctuation else "")
        + (string.digits if metric.ignore_numbers else ""),
    )  # fmt: skip

    def simplified(text: str) -> str:
        for pattern in ignored:
            text = pattern.sub("", text)
        return (text.lower() if metric.ignore_case else text).translate(dropped)

    wanted = {simplified(reference) for reference in references}

    def mark(answer: str, _: str) -> Mark:
        found = filtered(answer, document)
        score = float(simplified(found) in wanted)
        return plain(score, found="none" if found == NOTHING else "one")

    return Scorer(mark)
