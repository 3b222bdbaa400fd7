from __future__ import annotations

from typing import Any

import pytest

from tuneserve.chat.template import ChatTemplate, TemplateError, api_message, normal_message

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_renders_with_and_without_generation_prompt() -> None:
    template = ChatTemplate(CHATML)
    messages = [{"role": "user", "content": "a < b & c"}]
    text = "<|im_start|>user\na < b & c<|im_end|>\n"
    assert template.render(messages) == text
    assert template.render(messages, add_generation_prompt=True) == text + "<|im_start|>assistant\n"


def test_tojson_keeps_characters_that_html_would_escape() -> None:
    assert ChatTemplate("{{ x | tojson }}").render([], x={"a": "<é>"}) == '{"a": "<é>"}'


def test_refusal_by_the_template_is_its_own_words() -> None:
    with pytest.raises(TemplateError, match="refuses the conversation: no system role"):
        ChatTemplate("{{ raise_exception('no system role') }}").render([])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for i in range(99999999) %}{% endfor %}",
    ],
)
def test_hostile_templates_are_stopped(attack: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(attack).render([])


def test_broken_template_is_one_clear_error() -> None:
    with pytest.raises(TemplateError, match="can't be compiled"):
        ChatTemplate("{% if %}").render([])


def test_messages_have_one_form() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    decoded = {**call, "function": {"name": "add", "arguments": {"a": 1}}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    normal = {"role": "assistant", "content": "", "tool_calls": [decoded]}
    assert normal_message(asked) == normal
    assert normal_message(normal) == normal
    asked = {**asked, "content": ""}
    assert api_message({**normal, "weight": 0}) == asked
    assert normal_message({"role": "developer", "content": "x"})["role"] == "system"


@pytest.mark.parametrize("arguments", ["{", "[1]", [1], "[" * 100_000])
def test_arguments_that_are_no_object_have_no_form(arguments: Any) -> None:
    call = {"function": {"name": "add", "arguments": arguments}}
    with pytest.raises(ValueError, match="arguments of a call must be"):
        normal_message({"role": "assistant", "content": "", "tool_calls": [call]})


def test_what_transformers_adds_to_jinja_is_rendered_as_it_does() -> None:
    from transformers import PreTrainedTokenizerBase

    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\n"
        "  {{ m.content }}{% endgeneration %}{% else %}"
        "{{ {'b': 'ü<', 'a': [1]} | tojson(sort_keys=true, separators=(',', ':')) }}"
        "{{ {'a': 'ü'} | tojson(ensure_ascii=true, indent=1) }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "yes"}]
    tokenizer = PreTrainedTokenizerBase()
    expected = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False)
    assert ChatTemplate(source).render(messages) == expected


def test_a_template_may_keep_lists_of_its_own() -> None:
    """As Kimi K2's does; what it is given stays closed, in parts too."""
    own = "{% set seen = namespace(ids=[]) %}{% for m in messages %}"
    own += "{% set _ = seen.ids.append(m.role) %}{% endfor %}{{ seen.ids.pop(0) }}{{ seen.ids }}"
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": ["a"]},
        {"role": "assistant", "content": "b"},
    ]
    assert ChatTemplate(own).render(messages) == "user['assistant']"
    for attack in ("{{ messages[0].content.append(1) }}", "{{ tools.pop() }}"):
        with pytest.raises(TemplateError):
            ChatTemplate(attack).render(messages, tools=[{"type": "function"}])
