"""transformers' renderer, in a process of its own."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tuneserve.chat.template import ChatTemplate, TemplateError, TemplateLimitError
from tuneserve.convert.verify.conversations import CONVERSATIONS
from tuneserve.convert.verify.transformers_template import TransformersTemplate

pytestmark = pytest.mark.slow


def test_it_writes_what_the_tokenizer_writes(demo_tokenizer: Any) -> None:
    source = demo_tokenizer.chat_template + "{{ eos_token }}{{ pad_token }}{{ x }}"
    template = TransformersTemplate(source, demo_tokenizer.special_tokens_map)
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            given = {"add_generation_prompt": prompt, "x": "é\n"}
            expected = demo_tokenizer.apply_chat_template(
                list(messages), chat_template=source, tokenize=False, **given
            )
            assert template.render(list(messages), **given) == expected


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "longer",
        ),
        ("{{ (messages|length + 8) ** (10 ** 9) }}", "longer"),
        ("{{ 'a' | center(2000000000) }}", "memory"),
    ],
)
def test_a_template_that_stops_in_transformers_alone_is_ended(work: str, words: str) -> None:
    source = f"{{% if documents is defined %}}{work}{{% endif %}}"
    messages = [{"role": "user", "content": "a"}]
    assert ChatTemplate(source).render(messages) == ""
    started = time.monotonic()
    with pytest.raises(TemplateLimitError, match=words):
        TransformersTemplate(source, {}).render(messages)
    assert time.monotonic() - started < 30


def test_what_it_refuses_is_an_error() -> None:
    for source in ("{{ raise_exception('no') }}", "{% if %}", "{{ messages[7].content.x }}"):
        with pytest.raises(TemplateError):
            TransformersTemplate(source, {}).render([{"role": "user", "content": "a"}])
