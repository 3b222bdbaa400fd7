"""tokenizer.json and tokenizer_config.json, checked before a library reads them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tuneserve.chat.template import MAX_TEMPLATE_CHARACTERS
from tuneserve.errors import UsageError
from tuneserve.expressions import ExpressionError, check_expression
from tuneserve.gguf import pretokenizer_table
from tuneserve.model_files import (
    LARGEST_SIZE,
    are_texts,
    check_code,
    is_finite,
    read_model_json,
    shown,
)

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
"""What libraries write of a tokenizer, by release and kind."""
MOST_BYTES = 256 << 20
"""Of a file; the largest in use have 33 MB."""
MOST_GROWTH = 32
"""How many times longer a text may become by what is put in place of its parts; no tokenizer in use
makes it longer than 3 times."""
TOKEN_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
"""Of an added token; the tokenizers library takes none without."""
_BESIDE = (
    "special_tokens_map.json", "added_tokens.json", "generation_config.json", "chat_template.json",
    "processor_config.json", "preprocessor_config.json",
)  # fmt: skip
_IN_USE = frozenset(
    value for name, value in vars(pretokenizer_table).items() if name.endswith("_REGEX")
)


def check_tokenizer_files(directory: Path) -> dict[str, Any]:
    """The content of a tokenizer.json, which has `added_tokens`, checked with what transformers
    reads beside it. Raises UsageError for another structure than the tokenizers library reads, for
    expressions that may never end, and for code."""
    path = directory / "tokenizer.json"
    content = read_model_json(path, most_bytes=MOST_BYTES)
    model = content.get("model")
    if not isinstance(model, dict):
        raise _problem(path, "model is no object")
    vocabulary = model.get("vocab")
    _require(isinstance(vocabulary, dict | list) and bool(vocabulary), path, "model.vocab is empty")
    by_token = isinstance(vocabulary, dict) or model.get("type") != "BPE"
    _require(by_token, path, "model.vocab is no table of tokens")
    if isinstance(vocabulary, dict):
        numbers = vocabulary.values()
        good = all(type(one) is int and 0 <= one < LARGEST_SIZE for one in numbers)
        _require(good, path, "model.vocab has an id that is no number of a token")
        _require(len(set(numbers)) == len(numbers), path, "two tokens of model.vocab have one id")
    merges = model.get("merges") or []
    good = isinstance(merges, list) and all(map(_is_merge, merges))
    _require(good, path, "model.merges is no list of pairs")
    added = content.setdefault("added_tokens", [])
    good = isinstance(added, list) and all(map(_is_added, added))
    _require(good, path, "added_tokens is no list of tokens")
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        _require(isinstance(content.get(name), dict | None), path, f"{name} is no object")
        _check_expressions(content.get(name), path, name)
        _require(_growth(content.get(name)) <= MOST_GROWTH, path, f"{name} makes texts too long")
    beside = directory / "tokenizer_config.json"
    if beside.exists():
        config = read_model_json(beside, most_bytes=MOST_BYTES)
        check_code(config, str(beside))
        template = config.get("chat_template")
        _require(isinstance(template, str | list | None), beside, "chat_template is no text")
        for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
            good = isinstance(config.get(key), str | dict | None)
            _require(good, beside, f"{key} is no token")
        longest = config.get("model_max_length")
        _require(
            longest is None or is_finite(longest), beside, f"model_max_length is {shown(longest)}"
        )
        for key in ("padding_side", "truncation_side"):
            _require(config.get(key) in (None, "left", "right"), beside, f"{key} is no side")
        decoded = config.get("added_tokens_decoder") or {}
        good = isinstance(decoded, dict) and all(key.isdecimal() for key in decoded)
        _require(good, beside, "added_tokens_decoder is no table of tokens")
        _require(
            isinstance(config.get("tokenizer_class"), str | None),
            beside,
            "tokenizer_class is no name",
        )

    for name in _BESIDE:
        if (directory / name).exists():
            check_code(
                read_model_json(directory / name, most_bytes=MOST_BYTES), str(directory / name)
            )
    template = directory / "chat_template.jinja"
    if template.exists() and template.stat().st_size > 4 * MAX_TEMPLATE_CHARACTERS:
        raise UsageError(
            f"is longer than {MAX_TEMPLATE_CHARACTERS} characters", where=str(template)
        )
    return content


def _require(good: bool, path: Path, problem: str) -> None:
    if not good:
        raise _problem(path, problem)


def _problem(path: Path, problem: str) -> UsageError:
    return UsageError(problem, where=str(path), hint="Download it again.")


def _is_merge(merge: Any) -> bool:
    if isinstance(merge, str):
        return " " in merge
    return isinstance(merge, list) and len(merge) == 2 and are_texts(merge)


def _is_added(token: Any) -> bool:
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        return False
    number = token.get("id")
    is_number = type(number) is int and 0 <= number < LARGEST_SIZE
    return is_number and all(isinstance(token.get(flag), bool) for flag in TOKEN_FLAGS)


def _growth(step: Any) -> float:
    """By what factor a step, with those it is made of, may make a text longer."""
    if isinstance(step, list):
        return math.prod(map(_growth, step))
    if not isinstance(step, dict):
        return 1
    kind, content = step.get("type"), step.get("content")
    if kind == "Replace" and isinstance(content, str):
        pattern = step.get("pattern")
        replaced = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1, len(content) / max(1, len(replaced) if isinstance(replaced, str) else 1))
    if kind == "Prepend":
        return max(1, len(str(step.get("prepend", ""))))
    return math.prod(_growth(one) for one in step.values() if isinstance(one, list))


def _check_expressions(value: Any, path: Path, place: str) -> None:
    """Raise UsageError for regular expressions (`{"Regex": …}`) that may take for ever: the library
    that reads them tries every way."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            _check_expressions(one, path, f"{place}[{number}]")
    if not isinstance(value, dict):
        return
    expression = value.get("Regex")
    if expression is not None:
        _require(isinstance(expression, str), path, f"{place}.Regex is no text")
        _check_expression(expression, f"{path}: {place}")
    for name, one in value.items():
        _check_expressions(one, path, f"{place}.{name}")


def _check_expression(expression: str, where: str) -> None:
    if expression in _IN_USE:
        return
    try:
        check_expression(expression)
    except ExpressionError as error:
        raise UsageError(
            f"a regular expression that may take for ever: it {error}", where=where,
            problems=[shown(expression)],
        ) from None  # fmt: skip
