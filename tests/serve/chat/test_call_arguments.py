"""Arguments in the styles of templates become JSON, however they are cut and written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.chat.argument_styles import ArgumentStyle, BareKeys, Python, Tagged
from tuneserve.serve.chat.call_arguments import argument_reader

QWEN = Tagged("<parameter=", ">\n", ">\n", "\n</parameter>")
GLM = Tagged("<arg_key>", "</arg_key>\n<arg_value>", "</arg_key>\n<arg_value>", "</arg_value>")
DSML = Tagged('<p name="', '" string="true">', '" string="false">', "</p>")
GEMMA = BareKeys('<|"|>')

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "i": {"type": "integer"},
        "b": {"type": "boolean"},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "ref": {"$ref": "#/$defs/Name"},
        "kind": {"enum": ["1", "2"]},
        "list": {"type": "array"},
    },
    "$defs": {"Name": {"type": "string"}},
}


def read(style: ArgumentStyle, text: str, *, cut: bool) -> tuple[dict[str, Any], str]:
    """(the arguments, the text behind them)"""
    reader = argument_reader(style, SCHEMA)
    told, held, ended = "", "", False
    for piece in text if cut else [text]:
        held += piece
        if not ended:
            written, held, ended = reader.feed(held)
            told += written
    assert ended
    return json.loads(told), held


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("style", "text", "wanted"),
    [
        (QWEN, "<parameter=s>\n5\n</parameter>\n</f>", {"s": "5"}),
        (QWEN, "<parameter=i>\n5\n</parameter>\n</f>", {"i": 5}),
        (QWEN, "<parameter=b>\nTrue\n</parameter></f>", {"b": True}),
        (QWEN, "<parameter=either>\nNone\n</parameter></f>", {"either": None}),
        (QWEN, "<parameter=either>\n5\n</parameter></f>", {"either": "5"}),
        (QWEN, "<parameter=ref>\n5\n</parameter></f>", {"ref": "5"}),
        (QWEN, "<parameter=kind>\n1\n</parameter></f>", {"kind": "1"}),
        (QWEN, "<parameter=list>\n[1, {'k': True}]\n</parameter></f>", {"list": [1, {"k": True}]}),
        (QWEN, "<parameter=s>a</parameter><parameter=i>1</parameter></f>", {"s": "a", "i": 1}),
        (QWEN, "<parameter=s>\n\n</parameter>\n</f>", {"s": ""}),
        (QWEN, "<parameter=s>\n a\n\nb </parameter\n\n</parameter>\n</f>",
         {"s": " a\n\nb </parameter\n"}),
        (QWEN, "<parameter=s><![CDATA[a</parameter>]]></parameter></f>", {"s": "a</parameter>"}),
        (QWEN, "<parameter=other>\nplain text\n</parameter></f>", {"other": "plain text"}),
        (QWEN, "</f>", {}),
        (GLM, "\n<arg_key>s</arg_key> <arg_value>a\n</arg_value>\n</t>", {"s": "a\n"}),
        (DSML, '<p name="x" string="true">5</p>\n<p name="y" string="false">5</p>\n</i>',
         {"x": "5", "y": 5}),
        (Python(), "(s='it's', i=5, b=True, either=None)]", {"s": "it's", "i": 5, "b": True,
         "either": None}),
        (Python(), '(s="a, b=(", list=[1, {"k": "]"}])]', {"s": "a, b=(", "list": [1, {"k": "]"}]}),
        (Python(), r"(s='a\\b\'c')]", {"s": "a\\b'c"}),
        (Python(), "()]", {}),
        (Python(), "\n(i=5)]", {"i": 5}),
        (Python(), " ]", {}),
        (GEMMA, '{s:<|"|>a "b" {c},<|"|>,list:[1,{k:true}],i:-1.5}<e>',
         {"s": 'a "b" {c},', "list": [1, {"k": True}], "i": -1.5}),
        (GEMMA, '{s: <|"|><|"|>, either: None}<e>', {"s": "", "either": None}),
        (GEMMA, "{}<e>", {}),
        (GEMMA, "\n{i:5}<e>", {"i": 5}),
        (GEMMA, " <e>", {}),
    ],
)  # fmt: skip
def test_arguments_are_read(
    style: ArgumentStyle, text: str, wanted: dict[str, Any], cut: bool
) -> None:
    told, rest = read(style, text, cut=cut)
    assert told == wanted
    assert rest.strip().startswith(("</f>", "</t>", "</i>", "]", "<e>"))


@given(st.text(max_size=20).filter(lambda text: "</parameter" not in text))
def test_any_text_is_kept(value: str) -> None:
    text = f"<parameter=s>\n{value}\n</parameter>\n</f>"
    told, _ = read(QWEN, text, cut=True)
    assert told == {"s": value}


def test_a_text_is_told_as_it_grows() -> None:
    reader = argument_reader(QWEN, SCHEMA)
    assert reader.feed("<parameter=s>\nRome is")[0] == '{"s": "Rome is'
    assert reader.feed(' "old"\n</para')[0] == r" \"old\""
