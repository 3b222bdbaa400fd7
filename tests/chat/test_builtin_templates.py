from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tuneserve.chat.builtin_templates import NAMES, chosen_template, default_template
from tuneserve.chat.examples import Example
from tuneserve.chat.template import ChatTemplate, TemplateError
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.runtime.model import load_tokenizer
from tuneserve.finetune.tokens.encoder import Encoder
from tuneserve.settings import ModelSettings

ENDS = ("<|im_start|>", "<|im_end|>")
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
TEXTS = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
    "instruction": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
}
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nHi\n\n### Response:\n"
)


def template(name: str) -> ChatTemplate:
    return ChatTemplate(chosen_template(Path(name), ENDS), bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_as_each_writes_it(name: str) -> None:
    assert template(name).render(messages=TURNS, add_generation_prompt=True) == TEXTS[name]
    with pytest.raises(TemplateError, match="no tool"):
        template(name).render(messages=[*TURNS, {"role": "tool", "content": "x"}])


def test_alpaca_introduces_an_instruction_without_a_system_prompt() -> None:
    asked = [TURNS[1]]
    assert template("alpaca").render(messages=asked, add_generation_prompt=True) == ALPACA
    plain = template("instruction").render(messages=asked, add_generation_prompt=True)
    assert plain == ALPACA[ALPACA.index("###") :]


def test_a_file_of_that_name_comes_first_and_a_missing_one_names_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("alpaca").write_text("own")
    assert chosen_template(Path("alpaca"), ()) == "own"
    with pytest.raises(UsageError, match="chatml, alpaca, instruction"):
        chosen_template(Path("vicuna"), ())
    with pytest.raises(UsageError, match="vocabulary does not have") as caught:
        chosen_template(Path("chatml"), ENDS[:1])
    assert "<|im_end|>" in caught.value.message
    assert "alpaca or instruction" in caught.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_a_base_without_a_template_is_trained_with_one_of_them(
    demo_tokenizer: Any, tmp_path: Path, name: str
) -> None:
    demo_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    bare = Encoder(load_tokenizer(tmp_path, ModelSettings()), max_length=64)
    example = Example.of_turn("x", "Hi", "Hello.")
    with pytest.raises(TuneserveError, match="no chat template") as caught:
        bare.encode(example)
    assert all(known in caught.value.hint for known in NAMES)
    text = Example("y", ({"role": "assistant", "content": "Only text."},))
    assert bare.encode(text).trained > 2  # needs none
    settings = ModelSettings(chat_template=Path(name))
    encoder = Encoder(load_tokenizer(tmp_path, settings), max_length=64)
    labels = encoder.encode(example).labels
    assert encoder.tokenizer.decode([label for label in labels if label >= 0]) == "Hello.<|im_end|>"


def test_the_docs_show_each() -> None:
    shown = (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8")
    for text in (TEXTS["chatml"], TEXTS["instruction"].replace("</s>", "END")):
        assert "\n".join(f"    {line}".rstrip() for line in text.split("\n")) in shown


def test_of_several_templates_the_default_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert default_template({"default": "d", "tool_use": "t"}, tmp_path) == "d"
    assert "the default of this base's (default, tool_use)" in capsys.readouterr().err
    assert default_template({"default": "d"}, tmp_path) == "d"
    with pytest.raises(UsageError, match=r"other names \(rag, tool_use\), and no default"):
        default_template({"tool_use": "t", "rag": "r"}, tmp_path)
