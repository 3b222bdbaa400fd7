"""What clients send: bodies of every API, schemas and grammars."""

from __future__ import annotations

import json
from functools import cache

from pydantic import BaseModel, ValidationError

from fuzz.target import Target, must
from tuneserve.base.resolve import demo_gguf
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel
from tuneserve.serve.api.anthropic.protocol import MessagesRequest
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.openai_responses.protocol import ResponsesRequest
from tuneserve.serve.api.protocol import ChatRequest, CompletionRequest, EmbeddingRequest
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import UnavailableError

_MODELS: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    MessagesRequest,
    EmbeddingRequest,
)


def _check_body(data: bytes) -> None:
    kind = _MODELS[data[0] % len(_MODELS)] if data else ChatRequest
    given = json.loads(data[1:])
    try:
        body = kind.model_validate(given)
    except ValidationError as error:
        must(len(str(error)) < 64 * len(data) + 4096, "the refusal is much longer than the request")
        raise
    body.model_dump()


def _body_seeds() -> dict[str, bytes]:
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    function = {
        "name": "f",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    }
    bodies = [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "s"}, message],
            "stream": True,
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "auto",
            "n": 2,
            "logit_bias": {"5": -1},
            "stop": ["a"],
            "temperature": 0.5,
            "max_tokens": 5,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        },
        {"model": "m", "prompt": [[1, 2], [3]], "echo": True, "logprobs": 3, "suffix": None},
        {
            "model": "m",
            "input": [{"role": "user", "content": "x"}],
            "text": {"format": {"type": "text"}},
        },
        {
            "model": "m",
            "max_tokens": 3,
            "messages": [{"role": "user", "content": "x"}],
            "system": [{"type": "text", "text": "s"}],
            "tools": [{"name": "f", "input_schema": {}}],
        },
        {"model": "m", "input": ["a", "b"], "encoding_format": "base64"},
    ]
    return {str(n): bytes([n]) + json.dumps(body).encode() for n, body in enumerate(bodies)}


@cache
def _compiler() -> GrammarCompiler:
    return GrammarCompiler(LlamaModel(demo_gguf(), vocab_only=True))


def _check_schema(data: bytes) -> None:
    schema = json.loads(data)
    if isinstance(schema, dict):
        matcher = _compiler().compile_answer(schema, {}, several=False, opened=True)
        must(not matcher.is_error(), "an accepted grammar is broken")


def _schema_seeds() -> dict[str, bytes]:
    schemas = [
        {
            "type": "object",
            "properties": {
                "a": {"type": "string", "pattern": "^[a-z]{2,5}$"},
                "b": {"enum": [1, None, "x"]},
                "c": {"type": "array", "items": {"$ref": "#/$defs/d"}},
            },
            "required": ["a"],
            "additionalProperties": False,
            "$defs": {"d": {"type": "integer", "minimum": 3, "maximum": 999}},
        },
        {
            "anyOf": [{"const": "x"}, {"type": "number", "multipleOf": 0.5}],
            "allOf": [{"minLength": 1}],
        },
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"type": "object", "properties": {"n": {"$ref": "#"}}}},
        },
        {"type": "string", "format": "date-time", "maxLength": 30},
    ]
    return {str(n): json.dumps(schema).encode() for n, schema in enumerate(schemas)}


def _check_grammar(data: bytes) -> None:
    text = data.decode("utf-8", "replace")[1:]
    compiler = _compiler()
    match data[0] % 3 if data else 0:
        case 0:
            compiler.compile_gbnf(text)
        case 1:
            compiler.compile_regex(text, "guided_regex")
        case _:
            compiler.compile_lark(text, "grammar")


def _grammar_seeds() -> dict[str, bytes]:
    gbnf = (
        'root ::= item ("," item)* # list\n'
        'item ::= [a-z]{1,3} | "x"+ | digits?\ndigits ::= [0-9]+\n'
    )
    lark = 'start: word (" " word)*\nword: /[a-z]+/ | NUMBER\nNUMBER: /[0-9]{1,3}/\n'
    return {
        "gbnf": b"\0" + gbnf.encode(),
        "regex": rb"1(a|b)[c-e]{2,3}\d+\s?",
        "lark": b"\2" + lark.encode(),
    }


_REFUSED = (TuneserveError, UnavailableError, ValueError, RecursionError)
"""ValueError and RecursionError: json.loads of the target itself; bodies are read by the server."""
TARGETS = (
    Target(
        "requests",
        _check_body,
        _body_seeds,
        (
            b'"messages"',
            b'"role"',
            b'"tool_calls"',
            b'"image_url"',
            b"[" * 30,
            b"1e308",
            b'"\\ud800"',
        ),
        (*_REFUSED, ApiError),
    ),
    Target(
        "schema",
        _check_schema,
        _schema_seeds,
        (
            b'"allOf"',
            b'"anyOf"',
            b'"$ref"',
            b'"#"',
            b'"#/$defs/a"',
            b'"pattern"',
            b'"^([a-z]?){50}$"',
            b'"not"',
            b'"oneOf"',
            b'"multipleOf"',
            b'"minItems"',
            b'"format"',
            b"true",
            b"9e9",
        ),
        _REFUSED,
    ),
    Target(
        "grammar",
        _check_grammar,
        _grammar_seeds,
        (
            b"root ::=",
            b"{0,99}",
            b"{50}",
            b"([a-z]?)",
            b"(?i)",
            b"\\p{L}",
            b"[^x]",
            b"|",
            b"*",
            b"+",
        ),
        _REFUSED,
    ),
)
