"""JSON Schema to llama.cpp's grammars (GBNF), refusing what the grammar would not enforce."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from serve.errors import ApiError
from tuneserve.llama import LlamaModel, backend, llama_module

ENFORCED = frozenset(
    {
        "type", "properties", "required", "additionalProperties", "items", "prefixItems",
        "minItems", "maxItems", "enum", "const", "oneOf", "anyOf", "allOf", "$ref", "pattern",
        "format", "minLength", "maxLength",
    }
)  # fmt: skip
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"}
)
DEFINITIONS = ("$defs", "definitions", "properties")
FORMATS = re.compile(r"uuid[1-5]?|date|time|date-time")
LONGEST_REPETITION = 1000
"""A repetition becomes as many nested groups, and llama.cpp's parser recurses into them."""

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def schema_grammar(schema: Mapping[str, Any], *, param: str) -> str:
    """GBNF whose rule `root` gives JSON that satisfies the schema.

    Raises ApiError (400, naming `param`) for a keyword that could not be enforced, and for a
    schema that can't be converted.
    """
    _check(schema, param, "schema")
    llama_module()
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        grammar: str = json_schema_to_gbnf(json.dumps(schema))
    except (
        AssertionError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
        re.error,
    ) as error:  # fmt: skip
        # The converter asserts where others raise.
        raise _refused(f"the schema can't be converted: {error}", param) from error
    return grammar


def check_grammar(model: LlamaModel, grammar: str, *, param: str) -> None:
    """Raise ApiError if llama.cpp can't read a grammar; before the request is queued."""
    api = backend()
    sampler = api.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    if not sampler:
        raise _refused("llama.cpp can't read this grammar", param)
    api.llama_sampler_free(sampler)


def _check(schema: Any, param: str, path: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _refused(f"{path} must be an object", param)
    for key, value in schema.items():
        if key in DEFINITIONS:
            if not isinstance(value, Mapping):
                raise _refused(f"{path}.{key} must be an object", param)
            for name, part in value.items():
                _check(part, param, f"{path}.{key}.{name}")
        elif key in ANNOTATIONS:
            continue
        elif key not in ENFORCED:
            raise _refused(f"{path}: the keyword '{key}' is not supported", param)
        else:
            _check_keyword(key, value, param, path)


def _check_keyword(key: str, value: Any, param: str, path: str) -> None:
    if key in ("items", "additionalProperties") and not isinstance(value, list):
        _check(value, param, f"{path}.{key}")
    elif key in ("oneOf", "anyOf", "allOf", "prefixItems", "items"):
        if not isinstance(value, list) or not value:
            raise _refused(f"{path}.{key} must be a list that is not empty", param)
        for number, part in enumerate(value):
            _check(part, param, f"{path}.{key}.{number}")
    elif key in ("minItems", "maxItems", "minLength", "maxLength"):
        if not isinstance(value, int) or not 0 <= value <= LONGEST_REPETITION:
            raise _refused(f"{path}.{key} must be from 0 to {LONGEST_REPETITION}", param)
    elif key == "format" and not FORMATS.fullmatch(str(value)):
        raise _refused(f"{path}: the format '{value}' is not supported", param)


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, f"{message[0].upper()}{message[1:]}.", code="invalid_schema", param=param)
