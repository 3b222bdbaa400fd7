from __future__ import annotations

import pytest

from tuneserve.template import ChatTemplate, TemplateError

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


def test_bos_is_recognised() -> None:
    template = ChatTemplate("{{ bos_token }}hi", bos_token="<s>")
    assert template.begins_with_bos(template.render([]))
    assert not ChatTemplate("hi").begins_with_bos("hi")
