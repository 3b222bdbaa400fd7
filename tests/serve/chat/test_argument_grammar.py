"""What a schema bounds of arguments that are no JSON object."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.chat.grammar_support import Allows
from tests.serve.chat.test_round_trip import DSML, GEMMA_4, LFM2, QWEN_CODER
from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.chat.structured import GrammarCompiler

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "unit": {"enum": ["C", "F"]},
        "days": {"$ref": "#/$defs/Days"},
        "now": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["city", "days"],
    "$defs": {"Days": {"type": "integer", "minimum": 1, "maximum": 9}},
}


def qwen(**arguments: str) -> str:
    written = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items()
    )
    return f"<tool_call>\n<function=f>\n{written}</function>\n</tool_call>"


def dsml(*arguments: tuple[str, str, str]) -> str:
    written = "".join(
        f'<｜DSML｜parameter name="{key}" string="{is_text}">{value}</｜DSML｜parameter>\n'
        for key, is_text, value in arguments
    )
    return (
        f'<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n{written}</｜DSML｜invoke>\n'
        "</｜DSML｜function_calls>"
    )


def lfm(arguments: str) -> str:
    return f"<|tool_call_start|>[f({arguments})]<|tool_call_end|>"


def gemma(arguments: str) -> str:
    return f"<|tool_call>call:f{{{arguments}}}<tool_call|>"


Q = '<|"|>'
CASES = [
    (QWEN_CODER, qwen(city="Rome", days="3"), True),
    (QWEN_CODER, qwen(city="a\n</p>", days="3"), True),
    (
        QWEN_CODER,
        qwen(city="R", unit="C", days="3", now="True", tags='["x"]', either="None"),
        True,
    ),
    (QWEN_CODER, qwen(city="Rome is far", days="3"), False),
    (QWEN_CODER, qwen(city="Rome", unit="K", days="3"), False),
    (QWEN_CODER, qwen(city="Rome", days="10"), False),
    (QWEN_CODER, qwen(city="Rome"), False),
    (QWEN_CODER, qwen(days="3", city="Rome"), False),
    (QWEN_CODER, qwen(city="Rome", days="3", now="maybe"), False),
    (QWEN_CODER, qwen(city="Rome", days="3", tags="[1]"), False),
    (QWEN_CODER, qwen(city="Rome", days="3", other="x"), False),
    (DSML, dsml(("city", "true", "Rome"), ("days", "false", "3")), True),
    (DSML, dsml(("city", "false", "Rome"), ("days", "false", "3")), False),
    (
        DSML,
        dsml(("city", "true", "R"), ("days", "false", "3"), ("either", "false", "null")),
        True,
    ),
    (LFM2, lfm("city='Rome', days=3"), True),
    (LFM2, lfm('city="it\'s", unit="C", days=3, now=True, tags=[\'x\']'), True),
    (LFM2, lfm("city='Rome'"), False),
    (LFM2, lfm("city=Rome, days=3"), False),
    (LFM2, lfm("city='Rome', unit='K', days=3"), False),
    (LFM2, lfm("city='Rome', days=3, other=1"), False),
    (GEMMA_4, gemma(f"city:{Q}Rome{Q},days:3"), True),
    (GEMMA_4, gemma(f"city:{Q}Rome{Q},days:3,now:true,tags:[{Q}x{Q}],unit:{Q}C{Q}"), True),
    (GEMMA_4, gemma(f"city:{Q}Rome{Q},days:3,tags:[{Q}x{Q},{{a:1}}]"), False),
    (GEMMA_4, gemma(f"city:{Q}Rome{Q},days:10"), False),
    (LFM2, lfm("city='Rome', days=3, tags=[1]"), False),
    (LFM2, lfm("city='Rome', days=10"), False),
    (GEMMA_4, gemma("city:Rome,days:3"), False),
    (GEMMA_4, gemma(f"days:3,city:{Q}Rome{Q}"), False),
    (GEMMA_4, gemma(f"city:{Q}Rome{Q},days:3,unit:{Q}K{Q}"), False),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "allowed"), CASES, ids=str)
def test_arguments_are_bounded(
    form: Any, text: str, allowed: bool, grammars: GrammarCompiler, allows: Allows
) -> None:
    functions = {0: {"name": "f", "parameters": PARAMETERS}}
    grammar = grammars.compile_answer(None, functions, several=True, opened=False, form=form)
    assert allows(grammar, text) is allowed


@pytest.mark.parametrize("form", [QWEN_CODER, DSML, LFM2, GEMMA_4])
def test_odd_schemas_make_grammars(form: Any, grammars: GrammarCompiler) -> None:
    schemas: list[dict[str, Any]] = [
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {'a"b\\<c>': {}, "é": True, "x": None}},
        {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": True},
        {"type": "object", "properties": {"x": {"const": None}, "y": {"enum": [1, "a", True]}}},
        {"type": "object", "properties": {"x": {"type": ["string", "integer"]}}},
        {"anyOf": [{"properties": {"x": {}}}]},
    ]
    for parameters in schemas:
        functions: dict[int, dict[str, Any]] = {
            0: {"name": "f", "parameters": parameters},
            1: {"name": "g"},
        }
        for opened in (False, True):
            grammars.compile_answer(None, functions, several=True, opened=opened, form=form)


def test_what_can_not_be_enforced_names_the_field(grammars: GrammarCompiler) -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "object", "not": {}}}}
    functions: dict[int, dict[str, Any]] = {3: {"name": "f", "parameters": parameters}}
    with pytest.raises(GrammarError) as caught:
        grammars.compile_answer(None, functions, several=True, opened=False, form=QWEN_CODER)
    assert caught.value.param == "tools[3].function.parameters"
