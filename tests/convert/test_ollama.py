"""Modelfile: the probed template renders as the chat template does, or there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneserve.chat.template import ChatTemplate
from tuneserve.convert.ollama import modelfile, probe

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "Be kind.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UPPER = "{% for m in messages %}[{{ m['content'] | upper }}]{% endfor %}"
TALKS = [
    [{"role": "user", "content": "Hi {{ x }}"}],
    [{"role": "system", "content": "Rules"}, {"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
     {"role": "user", "content": "c"}],
]  # fmt: skip


@pytest.mark.parametrize("talk", TALKS)
def test_probed_turns_render_the_same(talk: list[dict[str, str]]) -> None:
    template = ChatTemplate(CHATML, eos_token="<|im_end|>")
    turns = probe(template)
    assert turns is not None
    assert turns.render(talk) == template.render(talk, add_generation_prompt=True)


def test_modelfile_has_template_and_stop() -> None:
    text = modelfile(Path("a/x.gguf"), ChatTemplate(CHATML, eos_token="<|im_end|>"), TALKS)
    assert text is not None
    assert text.startswith("FROM ./x.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "{{ else }}<|im_start|>system\nBe kind.<|im_end|>\n{{ end }}" in text


def test_bos_is_written_once() -> None:
    """Ollama puts it in front where the vocabulary says so."""
    template = ChatTemplate("{{ bos_token }}" + CHATML, bos_token="<s>", eos_token="<|im_end|>")
    text = modelfile(Path("x.gguf"), template, TALKS, adds_bos=True, context=2048)
    assert text is not None
    assert "<s>" not in text
    assert "PARAMETER num_ctx 2048\n" in text
    kept = modelfile(Path("x.gguf"), template, TALKS)
    assert kept is not None
    assert '"""{{ if .System }}<s><|im_start|>' in kept
    assert "{{ else }}<s><|im_start|>" in kept


def test_an_adapter_goes_on_its_base() -> None:
    template = ChatTemplate(CHATML, eos_token="<|im_end|>")
    text = modelfile(Path("base.gguf"), template, TALKS, adapter=Path("x-lora.gguf"))
    assert text is not None
    assert text.startswith("FROM ./base.gguf\nADAPTER ./x-lora.gguf\nTEMPLATE ")


@pytest.mark.parametrize(
    ("system", "line"),
    [
        ("Be terse.", 'SYSTEM """Be terse."""'),
        ("Two\nlines", 'SYSTEM """Two\nlines"""'),
        ('Say "yes" or "no"', 'SYSTEM Say "yes" or "no"'),
        ('Say "yes" or "no".', 'SYSTEM """Say "yes" or "no"."""'),
    ],
)
def test_the_system_prompt_is_the_modelfiles(system: str, line: str) -> None:
    template = ChatTemplate(CHATML, eos_token="<|im_end|>")
    text = modelfile(Path("x.gguf"), template, TALKS, system=system)
    assert text is not None
    assert f'"""\n{line}\nPARAMETER stop' in text


@pytest.mark.parametrize("system", ['a\n""" b', 'first\n"last"', '"all"'])
def test_a_system_prompt_that_cant_be_quoted_gives_none(system: str) -> None:
    template = ChatTemplate(CHATML, eos_token="<|im_end|>")
    assert modelfile(Path("x.gguf"), template, TALKS, system=system) is None


def test_a_template_that_is_no_sequence_of_turns_gives_none() -> None:
    assert modelfile(Path("x.gguf"), ChatTemplate(UPPER), TALKS) is None
