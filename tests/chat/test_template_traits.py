"""What templates can write, found on those that llama.cpp brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuneserve.chat.prompt import template_arguments
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.template_traits import CallStyle, template_traits
from tuneserve.chat.tools import arranged

HERMES = CallStyle()
ASKED = {"role": "user", "content": "Weather?"}
CALL = {
    "id": "call_x",
    "type": "function",
    "function": {"name": "look_up", "arguments": {"city": "Bonn"}},
}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "11", "tool_call_id": "call_x"}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}


@pytest.mark.parametrize(
    ("name", "system", "tools", "calls", "own_thoughts"),
    [
        ("Qwen-Qwen2.5-7B-Instruct", True, "tools", HERMES, False),
        ("Qwen-Qwen3-0.6B", True, "tools", HERMES, False),
        ("meta-llama-Llama-3.1-8B-Instruct", True, "tools", HERMES, False),
        ("mistralai-Mistral-Nemo-Instruct-2407", True, "tools", CallStyle(short_ids=True), False),
        (
            "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", True, None,
            CallStyle(null_content=True, text_arguments=True), False,
        ),
        (
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", True, None,
            CallStyle(null_content=True), False,
        ),
        ("google-gemma-2-2b-it", False, None, None, False),
        ("microsoft-Phi-3.5-mini-instruct", True, None, None, False),
        ("HuggingFaceTB-SmolLM3-3B", True, None, None, False),
        ("openai-gpt-oss-120b", True, "tools", HERMES, True),
        ("google-gemma-4-31B-it", True, "tools", HERMES, True),
    ],
)  # fmt: skip
def test_traits_of_real_templates(
    llama_cpp_source: Path, name: str, system: bool, tools: str, calls: Any, own_thoughts: bool
) -> None:
    path = llama_cpp_source / "models" / "templates" / f"{name}.jinja"
    found = template_traits(ChatTemplate(path.read_text(encoding="utf-8")))
    assert (found.system, found.tools, found.calls, found.own_thoughts) == (
        system, tools, calls, own_thoughts,
    )  # fmt: skip


def test_a_template_with_tools_under_another_name() -> None:
    source = (
        "{% for t in xml_tools or [] %}{{ t | tojson }}{% endfor %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    traits = template_traits(ChatTemplate(source))
    assert (traits.tools, traits.calls) == ("xml_tools", None)
    turns, tools = arranged([ASKED, CALLING, RESULT], [TOOL], traits)
    assert tools == {"xml_tools": [TOOL]}
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert '"look_up"' in turns[1]["content"]


def test_ids_that_a_template_refuses_are_numbered_in_the_order_of_calls(
    llama_cpp_source: Path,
) -> None:
    path = llama_cpp_source / "models/templates/mistralai-Mistral-Nemo-Instruct-2407.jinja"
    template = ChatTemplate(path.read_text(encoding="utf-8"), eos_token="</s>")
    other = {**CALL, "id": "call_y"}
    messages: list[dict[str, Any]] = [
        ASKED,
        {**CALLING, "tool_calls": [CALL, other]},
        {**RESULT, "tool_call_id": "call_y"},
        {"role": "tool", "content": "12"},
    ]
    turns, _ = arranged(messages, [TOOL], template_traits(template))
    assert [call["id"] for call in turns[1]["tool_calls"]] == ["000000001", "000000002"]
    assert [turn["tool_call_id"] for turn in turns[2:]] == ["000000002", "000000001"]
    template.render(turns, tools=[TOOL])


def test_a_system_prompt_goes_to_the_user_where_the_template_refuses_it(
    llama_cpp_source: Path,
) -> None:
    path = llama_cpp_source / "models/templates/google-gemma-2-2b-it.jinja"
    template = ChatTemplate(path.read_text(encoding="utf-8"))
    turns, _ = arranged(
        [{"role": "system", "content": "Be brief."}, ASKED], [], template_traits(template)
    )
    assert turns == [{"role": "user", "content": "Be brief.\n\nWeather?"}]
    assert "Be brief.\n\nWeather?" in template.render(turns)


def test_results_that_follow_one_another_are_one_turn_of_the_users() -> None:
    traits = template_traits(ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}"))
    turns, _ = arranged([ASKED, CALLING, RESULT, {**RESULT, "content": "12"}], [], traits)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[2]["content"] == (
        "<tool_response>\n11\n</tool_response>\n<tool_response>\n12\n</tool_response>"
    )


def test_results_stand_in_the_order_of_their_calls(llama_cpp_source: Path) -> None:
    traits = template_traits(ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}"))
    calling = {**CALLING, "tool_calls": [CALL, {**CALL, "id": "call_y"}]}
    results = [{**RESULT, "tool_call_id": "call_y", "content": "second"}, RESULT]
    turns, _ = arranged([ASKED, calling, *results], [], traits)
    assert turns[2]["content"].index("11") < turns[2]["content"].index("second")
    unknown = [{**results[0], "tool_call_id": "other"}, RESULT]
    turns, _ = arranged([ASKED, calling, *unknown], [], traits)
    assert turns[2]["content"].index("11") > turns[2]["content"].index("second")


BARE_TOOLS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no description": {"parameters": {"type": "object", "properties": {}}},
    "no parameters": {"description": "d"},
    "empty parameters": {"description": "d", "parameters": {}},
    "alternatives": {"description": "d", "parameters": {"anyOf": [{"type": "object"}]}},
    "odd types": {
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": ["string", "null"]}, "b": {"anyOf": [{"type": "integer"}]},
                "c": {"enum": [1, 2]}, "d": {"$ref": "#/$defs/D"}, "e": True, "f": {},
            },
            "$defs": {"D": {"type": "object"}},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "openai-gpt-oss-120b", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "Apertus-8B-Instruct",
        "ByteDance-Seed-OSS", "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        "meetkai-functionary-medium-v3.1", "Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct",
    ],
)  # fmt: skip
@pytest.mark.parametrize("what", BARE_TOOLS)
def test_every_tool_is_written(llama_cpp_source: Path, name: str, what: str) -> None:
    path = llama_cpp_source / "models" / "templates" / f"{name}.jinja"
    template = ChatTemplate(path.read_text(encoding="utf-8"), bos_token="<s>")
    tool = {"type": "function", "function": {"name": "qzlookup", **BARE_TOOLS[what]}}
    arguments = template_arguments(template, [{"role": "user", "content": "Hi"}], tools=[tool])
    assert "qzlookup" in template.render(add_generation_prompt=True, **arguments)


def test_a_tool_that_a_template_can_write_is_left_as_it_is(llama_cpp_source: Path) -> None:
    path = llama_cpp_source / "models" / "templates" / "Qwen-Qwen3-0.6B.jinja"
    template = ChatTemplate(path.read_text(encoding="utf-8"))
    for function in BARE_TOOLS.values():
        tool = {"type": "function", "function": {"name": "f", **function}}
        user = [{"role": "user", "content": "Hi"}]
        assert template_arguments(template, user, tools=[tool])["tools"] == [tool]
