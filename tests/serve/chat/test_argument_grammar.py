"""What a schema bounds of arguments that are no JSON object."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.chat.grammar_support import Allows
from tests.serve.chat.test_round_trip import DSML, GEMMA_4, LFM2, QWEN_CODER
from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.chat.loosened import compile_calls
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


NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "o": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]},
        "p": {"type": "string", "pattern": "^[0-9]{3}$"},
        "u": {"$ref": "#/$defs/Unit"},
        "w": {"anyOf": [{"enum": ["a"]}, {"type": "null"}]},
    },
    "required": ["o", "p", "u"],
    "$defs": {"Unit": {"type": "string", "enum": ["C", "F"]}},
}
FORMS = [QWEN_CODER, DSML, LFM2, GEMMA_4]


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        (
            QWEN_CODER,
            {"o": '{"x": true}', "p": "123", "u": "C", "w": "null"},
            [{"p": "12"}, {"p": "a123"}, {"u": "K"}, {"w": "b"}, {"o": '{"x": 1}'}],
        ),
        (
            LFM2,
            {"o": '{"x": true}', "p": "'123'", "u": "'C'", "w": "None"},
            [{"p": "'1234'"}, {"u": "'K'"}, {"w": "'b'"}, {"o": '{"x": "y"}'}, {"o": "{}"}],
        ),
        (
            GEMMA_4,
            {"o": "{x:true}", "p": f"{Q}123{Q}", "u": f"{Q}C{Q}", "w": "null"},
            [{"p": f"{Q}12{Q}"}, {"u": f"{Q}K{Q}"}, {"o": f"{{x:{Q}Bundesliga{Q}}}"}, {"o": "{}"}],
        ),
    ],
    ids=["tagged", "python", "bare"],
)
def test_what_is_within_and_patterns_are_bounded(
    form: Any,
    right: dict[str, str],
    wrong: list[dict[str, str]],
    grammars: GrammarCompiler,
    allows: Allows,
) -> None:
    functions = {0: {"name": "f", "parameters": NESTED, "strict": True}}
    grammar, told = compile_calls(
        grammars, None, functions, must_call=True, several=False, opened=False, form=form
    )
    assert told == ()

    def text(changed: dict[str, str]) -> str:
        values = {**right, **changed}
        if form is QWEN_CODER:
            return qwen(**values)
        if form is LFM2:
            return lfm(", ".join(f"{key}={value}" for key, value in values.items()))
        return gemma(",".join(f"{key}:{value}" for key, value in values.items()))

    assert allows(grammar, text({}))
    for changed in wrong:
        assert not allows(grammar, text(changed)), changed


@pytest.mark.parametrize("must_call", [True, False])
@pytest.mark.parametrize(
    ("schema", "left_open"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "^(?!x)"}}}, "a.pattern"),
        ({"properties": {"a": {"type": "string", "format": "uri"}}}, "a.format"),
        ({"properties": {"a": {"type": "string", "minLength": 2000}}}, "a.minLength"),
        ({"properties": {"a": {"type": "string", "not": {"const": "b"}}}}, "a.not"),
        ({"properties": {"a": {"type": "string", "enum": ["b"], "format": "uri"}}}, "a.format"),
        ({"properties": {}, "required": ["a"]}, "required"),
        ({"properties": {"a": {}}, "minProperties": 1}, "minProperties"),
        ({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"required": []}]}, "anyOf"),
        (
            {"properties": {"a": {"oneOf": [{"type": "string"}, {"enum": ["b"]}]}}},
            "a.oneOf",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", FORMS, ids=["tagged", "dsml", "python", "bare"])
def test_what_a_form_leaves_open_is_told_or_refused(
    form: Any, schema: dict[str, Any], left_open: str, must_call: bool, grammars: GrammarCompiler
) -> None:
    function = {"name": "f", "parameters": {"type": "object", **schema}}
    options: dict[str, Any] = {
        "must_call": must_call, "several": True, "opened": not must_call, "form": form
    }  # fmt: skip
    functions: dict[int, dict[str, Any]] = {0: {"name": "g"}, 2: function}
    _, told = compile_calls(grammars, None, functions, **options)
    assert told == (f"tools[2].function.parameters: {left_open}",)
    with pytest.raises(GrammarError) as caught:
        compile_calls(grammars, None, {**functions, 2: {**function, "strict": True}}, **options)
    assert caught.value.param == "tools[2].function.parameters"
    assert caught.value.message.startswith("tools[2].function.parameters ('f') can't be enforced")
    assert left_open in caught.value.message


@pytest.mark.parametrize("form", [LFM2, GEMMA_4], ids=["python", "bare"])
def test_what_is_left_open_within_is_told_by_its_place(
    form: Any, grammars: GrammarCompiler
) -> None:
    within = {"type": "object", "properties": {"b": {"type": "string", "format": "uri"}}}
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}, "minProperties": 1}
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": within},
            "n": {"$ref": "#/$defs/Node"},
            "t": {"type": "array", "prefixItems": [{"type": "integer"}]},
        },
        "$defs": {"Node": node},
    }
    functions: dict[int, dict[str, Any]] = {0: {"name": "f", "parameters": schema}}
    assert grammars.left_open(functions, form) == {
        0: ["a.items.b.format", "n.minProperties", "n.next.minProperties", "t.prefixItems"]
    }
