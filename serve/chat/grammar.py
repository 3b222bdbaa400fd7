"""The grammars that bound an answer: made of JSON Schemas, checked before they are queued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tuneserve.llama import LlamaModel, backend
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.chat.grammar_check import GrammarError, check_text
from tuneserve.serve.chat.schema_rules import SchemaError, SchemaRules

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def schema_grammar(schema: Mapping[str, Any], *, param: str) -> str:
    """GBNF whose rule `root` gives JSON that satisfies the schema.

    Raises ApiError (400, naming `param`) for a schema that can't be enforced, keyword by keyword.
    """
    rules = SchemaRules()
    with refused_schemas(param):
        root = rules.add_schema(schema)
    return f"root ::= {root}\n{rules.text()}"


@contextmanager
def refused_schemas(param: str) -> Iterator[None]:
    """Make a SchemaError what a client is told."""
    try:
        yield
    except SchemaError as error:
        raise _refused(str(error), param) from error


def check_grammar(model: LlamaModel, grammar: str, *, param: str) -> None:
    """Raise ApiError if a grammar can't be used; before the request is queued."""
    try:
        check_text(grammar, is_token=lambda text: len(model.tokenize(text)) == 1)
    except GrammarError as error:
        raise _refused(f"the grammar can't be used: {error}", param) from error
    api = backend()
    sampler = api.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    if not sampler:
        raise _refused("llama.cpp can't read this grammar", param)
    api.llama_sampler_free(sampler)


def _refused(message: str, param: str) -> ApiError:
    return ApiError(400, f"{message[0].upper()}{message[1:]}.", code="invalid_schema", param=param)
