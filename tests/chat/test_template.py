from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tuneserve.chat.renderers import _Process
from tuneserve.chat.template import (
    ChatTemplate,
    TemplateError,
    TemplateLimitError,
    api_message,
    normal_message,
)
from tuneserve.chat.template_traits import template_traits

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


_NEVER_ENDING = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a power that holds the interpreter": "{{ (messages|length + 9) ** (10 ** 9) }}",
    "a power while compiling": "{{ 10 ** 100000000 % 7 }}",
}
_TOO_LARGE = {
    "a width": "{{ '%2000000000d' % 1 }}",
    "a format": "{{ '{:2000000000}'.format(1)|length }}",
    "center": "{{ 'a'|center(2 * 10 ** 9)|length }}",
    "a list": "{{ ([0] * 10 ** 9)|length }}",
    "doubling": "{% set n = namespace(x=[1]) %}{% for i in range(40) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "a long text": "{% for i in range(50000) %}{{ 'a' * 1000 }}{% endfor %}",
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second instead of one and three."""
    monkeypatch.setattr("tuneserve.chat.renderers.RENDER_SECONDS", 0.1)
    monkeypatch.setattr("tuneserve.chat.renderers.COMPILE_SECONDS", 0.1)


@pytest.mark.parametrize("kind", [*_NEVER_ENDING, *_TOO_LARGE])
@pytest.mark.usefixtures("short")
def test_a_template_has_a_limit_of_time_and_memory(kind: str) -> None:
    source = {**_NEVER_ENDING, **_TOO_LARGE}[kind]
    expected = "takes|far more than"
    if kind in _NEVER_ENDING:
        what = "to be compiled" if kind == "a power while compiling" else "for a conversation"
        expected = rf"takes longer than 0\.1 s {what}$"
    with pytest.raises(TemplateLimitError, match=expected):
        ChatTemplate(source).render([{"role": "user", "content": "hi"}])
    # The next one is rendered.
    assert ChatTemplate("{{ messages[0].content }}").render([{"content": "a"}]) == "a"


@pytest.mark.usefixtures("short")
def test_a_template_that_takes_too_much_for_any_conversation_is_found_at_once() -> None:
    ChatTemplate("{{ raise_exception('no') }}").check()
    for source in ("{% if %}", _NEVER_ENDING["loops"]):
        with pytest.raises(TemplateError):
            ChatTemplate(source).check()
        if source != "{% if %}":
            with pytest.raises(TemplateLimitError):
                template_traits(ChatTemplate(source))


def test_what_renders_has_no_rights_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the sandbox were left, no file could be read, and the environment holds no keys."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    process = _Process("tuneserve.chat.render_process")
    try:
        found = process.render("{{ 1 }}", [b"{}"])
        assert found == [("text", "1")]
        number = process.pid
        assert "secret" not in Path(f"/proc/{number}/environ").read_text(encoding="utf-8")
        limits = Path(f"/proc/{number}/limits").read_text(encoding="utf-8")
        assert re.search(r"Max open files +3 +3 ", limits)
        assert re.search(r"Max file size +0 +0 ", limits)
    finally:
        process.end()


def test_many_are_rendered_at_once_and_in_order() -> None:
    refusal = "{% if fails %}{{ raise_exception('x') }}{% endif %}"
    template = ChatTemplate("{{ messages[0].content }}" + refusal)
    calls = [{"messages": [{"content": f"{n}\ud800é"}], "fails": n == 3} for n in range(500)]
    texts = template.render_all(calls)
    assert [n for n, text in enumerate(texts) if isinstance(text, TemplateError)] == [3]
    assert texts[499] == "499\ud800é"
    template.render_ahead(calls)
    assert template.render_all(calls[:3]) == texts[:3]
    with pytest.raises(TemplateError, match="is no JSON"):
        template.render([{"content": object()}])


def test_conversations_are_rendered_side_by_side_and_in_a_copy_of_the_process() -> None:
    template = ChatTemplate(CHATML)

    def rendered(number: int) -> str:
        return template.render([{"role": "user", "content": str(number)}])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(rendered, range(100))) == [rendered(n) for n in range(100)]
    child = os.fork()
    if not child:
        os._exit(0 if rendered(7) == template.render([{"role": "user", "content": "7"}]) else 1)
    assert os.waitpid(child, 0)[1] == 0
