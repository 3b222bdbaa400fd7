"""What is trained is what the server reads: calls rendered by the templates of many models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneserve.chat.argument_styles import BareKeys, Python, Tagged
from tuneserve.chat.call_finder import call_form
from tuneserve.chat.call_formats import CallForm
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import Rendering, render_example
from tuneserve.chat.template import ChatTemplate, TemplateError
from tuneserve.chat.template_traits import template_traits
from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS, thoughts_left
from tuneserve.serve.api.prepare import AnswerReader
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.channels import ChannelReader
from tuneserve.serve.chat.parts import (
    Content,
    Part,
    Reasoning,
    calls_of,
)
from tuneserve.serve.chat.recipients import RecipientReader

# As google/gemma-3-1b-it has it for conversations of text.
GEMMA_3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {{ message['content'] | trim }}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"""
SMOLLM_2 = """{% for message in messages %}
{%- if loop.first and messages[0]['role'] != 'system' -%}
{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}
{%- endif -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
WRITTEN_OUT = {"gemma-3": GEMMA_3, "smollm2": SMOLLM_2}

MARKED = CallForm(begin="<tool_call>", end="</tool_call>")
LLAMA = CallForm(middle='", "parameters": ', several=False)
MISTRAL_LIST = CallForm(
    section="[TOOL_CALLS][", tail=', "id": "\x00"}', separator=",", section_end="]"
)
MISTRAL_NAMED = CallForm(begin="[TOOL_CALLS]", head="", middle="[ARGS]", tail="")
MISTRAL_ID = CallForm(begin="[TOOL_CALLS]", head="", middle="[CALL_ID]\x00[ARGS]", tail="")
DEEPSEEK_R1 = CallForm(
    section="<｜tool▁calls▁begin｜>",
    begin="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    head="",
    middle="\n```json\n",
    tail="",
    end="```<｜tool▁call▁end｜>",
    section_end="<｜tool▁calls▁end｜>",
)
DEEPSEEK_V3 = CallForm(
    section="<｜tool▁calls▁begin｜>",
    begin="<｜tool▁call▁begin｜>",
    head="",
    middle="<｜tool▁sep｜>",
    tail="",
    end="<｜tool▁call▁end｜>",
    section_end="<｜tool▁calls▁end｜>",
)
HARMONY = CallForm(
    begin="to=functions.",
    head="",
    middle="<|channel|>commentary json<|message|>",
    tail="",
    end="<|call|>",
    several=False,
)
QWEN_CODER = CallForm(
    begin="<tool_call>",
    head="\n<function=",
    middle=">\n",
    tail="",
    end="</function>\n</tool_call>",
    style=Tagged("<parameter=", ">\n", ">\n", "\n</parameter>"),
)
GLM = CallForm(
    begin="<tool_call>",
    head="",
    middle="\n",
    tail="",
    end="</tool_call>",
    style=Tagged("<arg_key>", "</arg_key>\n<arg_value>", "</arg_key>\n<arg_value>", "</arg_value>"),
)
MINIMAX = CallForm(
    section="<minimax:tool_call>",
    begin='<invoke name="',
    head="",
    middle='">\n',
    tail="",
    end="</invoke>",
    section_end="</minimax:tool_call>",
    style=Tagged('<parameter name="', '">', '">', "</parameter>"),
)
DSML = CallForm(
    section="<｜DSML｜function_calls>",
    begin='<｜DSML｜invoke name="',
    head="",
    middle='">\n',
    tail="",
    end="</｜DSML｜invoke>",
    section_end="</｜DSML｜function_calls>",
    style=Tagged(
        '<｜DSML｜parameter name="', '" string="true">', '" string="false">', "</｜DSML｜parameter>"
    ),
)
LFM2 = CallForm(
    section="<|tool_call_start|>[",
    head="",
    middle="",
    tail="",
    separator=",",
    section_end="]<|tool_call_end|>",
    style=Python(),
)
GEMMA_4 = CallForm(
    begin="<|tool_call>",
    head="call:",
    middle="",
    tail="",
    end="<tool_call|>",
    style=BareKeys('<|"|>'),
)
COMMAND = CallForm(
    section="<|START_ACTION|>[",
    head='{"tool_call_id": "\x00", "tool_name": "',
    middle='", "parameters": ',
    separator=",",
    section_end="]<|END_ACTION|>",
)
APERTUS = CallForm(
    section="<|tools_prefix|>[", head='{"', middle='": ', separator=",",
    section_end="]<|tools_suffix|>",
)  # fmt: skip
APRIEL = CallForm(section="<tool_calls>[", separator=",", section_end="]</tool_calls>")
KIMI = CallForm(
    section="<|tool_calls_section_begin|>",
    begin="<|tool_call_begin|>functions.",
    head="",
    middle=":\x00<|tool_call_argument_begin|>",
    tail="",
    end="<|tool_call_end|>",
    section_end="<|tool_calls_section_end|>",
)
SOLAR = CallForm(
    section="<|tool_calls|>",
    begin="<|tool_call:begin|>",
    head="\x00<|tool_call:name|>",
    middle="<|tool_call:args|>",
    tail="",
    end="<|tool_call:end|>",
    section_end="<|calls|>",
)
FUNCTIONARY = CallForm(begin=">>>", head="", middle="\n", tail="", text_name="all")
FORMS: dict[str, CallForm | None] = {
    "Apertus-8B-Instruct": APERTUS,
    "Apriel-1.6-15b-Thinker-fixed": APRIEL,
    "Cohere2MoE": COMMAND,
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": COMMAND,
    "Kimi-K2-Instruct": KIMI,
    "Kimi-K2-Thinking": KIMI,
    "meetkai-functionary-medium-v3.2": FUNCTIONARY,
    "moonshotai-Kimi-K2": KIMI,
    "unsloth-Apriel-1.5": APRIEL,
    "upstage-Solar-Open-100B": SOLAR,
    "GLM-4.6": GLM,
    "LFM2.5-8B-A1B": LFM2,
    "MiniMax-M2": MINIMAX,
    "Qwen3-Coder": QWEN_CODER,
    "Qwen3.5-4B": QWEN_CODER,
    "deepseek-ai-DeepSeek-V3.2": DSML,
    "google-gemma-4-31B-it": GEMMA_4,
    "HuggingFaceTB-SmolLM3-3B": None,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": MARKED,
    "Qwen-QwQ-32B": MARKED,
    "Qwen-Qwen2.5-7B-Instruct": MARKED,
    "Qwen-Qwen3-0.6B": MARKED,
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": DEEPSEEK_R1,
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": DEEPSEEK_R1,
    "deepseek-ai-DeepSeek-V3.1": DEEPSEEK_V3,
    "gemma-3": None,
    "google-gemma-2-2b-it": None,
    "ibm-granite-granite-4.0": MARKED,
    "meta-llama-Llama-3.1-8B-Instruct": LLAMA,
    "meta-llama-Llama-3.2-3B-Instruct": LLAMA,
    "meta-llama-Llama-3.3-70B-Instruct": LLAMA,
    "microsoft-Phi-3.5-mini-instruct": None,
    "mistralai-Ministral-3-14B-Reasoning-2512": MISTRAL_NAMED,
    "mistralai-Mistral-Nemo-Instruct-2407": MISTRAL_LIST,
    "Mistral-Small-3.2-24B-Instruct-2506": MISTRAL_ID,
    "openai-gpt-oss-120b": HARMONY,
    "smollm2": None,
    "unsloth-mistral-Devstral-Small-2507": MISTRAL_NAMED,
}
ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "</s>", "<｜end▁of▁sentence｜>", "<end_of_turn>",
        "<|end_of_text|>", "<|end|>", "<|call|>", "<|return|>", "[e~[", "<|tool_response>",
        "<turn|>", "<|END_OF_TURN_TOKEN|>")  # fmt: skip
HIDDEN = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>", "<|content|>",
          "<|START_THINKING|>", "<|END_THINKING|>")  # fmt: skip
"""Control tokens that are no marks of calls: the server does not show them."""

ARGUMENTS: list[dict[str, Any]] = [
    {"city": "Rome"},
    {},
    {"text": 'she said "no" \\ </tool_call> }{', "n": -1.5},
    {"où": "Zürich 東京 🌍", "nested": {"a": [1, {"b": None}], "c": True}},
]
TOOLS: tuple[dict[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Does something",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("look_up", "get-time")
)
FUNCTIONS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


@pytest.fixture(params=sorted(FORMS))
def named(request: pytest.FixtureRequest, llama_cpp_source: Path) -> tuple[str, ChatTemplate]:
    return request.param, template(request.param, llama_cpp_source)


def template(name: str, source: Path) -> ChatTemplate:
    text = WRITTEN_OUT.get(name)
    if text is None:
        text = (source / "models" / "templates" / f"{name}.jinja").read_text("utf-8")
    ends = {"deepseek": "<｜end▁of▁sentence｜>", "Cohere": "<|END_OF_TURN_TOKEN|>"}
    eos = next((end for part, end in ends.items() if part in name), "</s>")
    return ChatTemplate(text, bos_token="<s>", eos_token=eos)


def calling(*calls: tuple[str, dict[str, Any]], content: str = "") -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {
                "id": f"callid{number:03}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for number, (name, arguments) in enumerate(calls)
        ],
    }


def rendered(template: ChatTemplate, *messages: dict[str, Any]) -> Rendering:
    asked = {"role": "user", "content": "What now?"}
    return render_example(template, Example("1", (asked, *messages), tools=TOOLS))


def written(rendering: Rendering) -> str:
    """The answer's text as the server has it: without the end token."""
    assert rendering.completion is not None
    text = rendering.completion.text.rstrip()
    while text.endswith(ENDS):
        end = next(end for end in ENDS if text.endswith(end))
        text = text.removesuffix(end).rstrip()
    for token in HIDDEN:
        text = text.replace(token, "")
    return text


def reader(template: ChatTemplate, rendering: Rendering) -> AnswerReader:
    form = template_traits(template).form
    if form.in_channels:
        return ChannelReader(calls=True)
    if form.text_name:
        return RecipientReader(form, calls=True)
    thinks = OPEN_THOUGHTS in template.source or CLOSE_THOUGHTS in template.source
    return PartReader(
        thoughts_left(rendering.prompt, thinks=thinks), calls=form, functions=FUNCTIONS
    )


def read(template: ChatTemplate, rendering: Rendering) -> list[Part]:
    """The parts of the answer: the same however it is cut."""
    text = written(rendering)
    whole = reader(template, rendering)
    parts = [*whole.feed(text), *whole.finish()]
    cut = reader(template, rendering)
    pieces = [part for character in text for part in cut.feed(character)] + cut.finish()
    for kind in (Content, Reasoning):
        assert joined(pieces, kind) == joined(parts, kind)
    assert told(pieces) == told(parts)
    return parts


def joined(parts: list[Part], *kinds: type[Content] | type[Reasoning]) -> str:
    return "".join(part.text for part in parts if isinstance(part, kinds)).strip()


def told(parts: list[Part]) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in calls_of(parts)]


def test_forms_are_found(named: tuple[str, ChatTemplate]) -> None:
    name, template = named
    assert call_form(template) == FORMS[name]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_call_is_read_as_it_was_trained(
    named: tuple[str, ChatTemplate], arguments: dict[str, Any]
) -> None:
    _, template = named
    parts = read(template, rendered(template, calling(("look_up", arguments))))
    assert told(parts) == [("look_up", arguments)]
    assert joined(parts, Content, Reasoning) == ""


def test_calls_at_once(named: tuple[str, ChatTemplate]) -> None:
    name, template = named
    wanted = [("look_up", {"city": "Rome"}), ("get-time", {}), ("look_up", {"city": "Oslo"})]
    if "Distill-Llama" in name:
        wanted.pop()  # its template ends the turn behind each call but the first
    form = template_traits(template).form
    if not form.several:
        return
    parts = read(template, rendered(template, calling(*wanted)))
    assert told(parts) == wanted
    assert joined(parts, Content, Reasoning) == ""


WITHOUT_TEXT = ("Llama-3", "Nemo", "Small-3.2", "R1-Distill", "r7b", "Cohere2", "Solar")
"""Templates that leave the text beside a call out, or put it behind the call's end."""


def test_text_in_front_of_a_call(named: tuple[str, ChatTemplate]) -> None:
    name, template = named
    if any(part in name for part in WITHOUT_TEXT):
        return
    answer = calling(("look_up", {"city": "Rome"}), content="Let me look <b>that</b> up.")
    parts = read(template, rendered(template, answer))
    assert told(parts) == [("look_up", {"city": "Rome"})]
    # gpt-oss's template makes thoughts of it.
    kind = Reasoning if name.startswith("openai") else Content
    assert joined(parts, kind) == "Let me look <b>that</b> up."


def test_a_call_after_a_result(named: tuple[str, ChatTemplate]) -> None:
    _, template = named
    result = {"role": "tool", "content": "11 o'clock", "tool_call_id": "callid000"}
    first = calling(("look_up", {"city": "Rome"}))
    second = calling(("get-time", {"city": "Oslo"}))
    rendering = rendered(template, first, result, second)
    assert told(read(template, rendering)) == [("get-time", {"city": "Oslo"})]
    quoted = template_traits(template).form.style is None
    assert ('"Rome"' if quoted else "Rome") in rendering.prompt
    assert "11 o'clock" in rendering.prompt


def test_every_template_writes_what_is_read(llama_cpp_source: Path) -> None:
    """Calls at once only where the template writes more than one; a refusal is no loss."""
    wanted = [("look_up", ARGUMENTS[3]), ("get-time", {})]
    refused = []
    for path in sorted((llama_cpp_source / "models" / "templates").glob("*.jinja")):
        one = template(path.stem, llama_cpp_source)
        calls = wanted[: 2 if template_traits(one).form.several else 1]
        try:
            rendering = rendered(one, calling(*calls))
        except TemplateError:
            refused.append(path.stem)
            continue
        if rendering.completion is None:
            refused.append(path.stem)
            continue
        assert told(read(one, rendering)) == calls, path.stem
    assert len(refused) <= 4, refused


def test_text_is_read_as_text(named: tuple[str, ChatTemplate]) -> None:
    _, template = named
    parts = read(template, rendered(template, {"role": "assistant", "content": '{"a": 1} [x]'}))
    assert joined(parts, Content) == '{"a": 1} [x]'
    assert told(parts) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(arguments=st.dictionaries(st.text(max_size=8), VALUES, max_size=3))
@pytest.mark.parametrize(
    "name",
    ["Qwen-Qwen3-0.6B", "meta-llama-Llama-3.2-3B-Instruct", "mistralai-Mistral-Nemo-Instruct-2407",
     "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "openai-gpt-oss-120b"],
)  # fmt: skip
def test_any_arguments(name: str, arguments: dict[str, Any], llama_cpp_source: Path) -> None:
    one = template(name, llama_cpp_source)
    assert told(read(one, rendered(one, calling(("f.1", arguments))))) == [("f.1", arguments)]
