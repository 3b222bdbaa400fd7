"""Trainer, verification, benchmark and server encode a conversation alike, whatever it holds."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.convert.convert_support import Trained
from tuneserve.bench.tasks.examples import encode_examples
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import FastTokenizer, GGUFTokenizer, template_of
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.verify.make_reference import choose_sequences
from tuneserve.convert.verify.verify import vocabulary_checks
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.data.split import Split
from tuneserve.finetune.tokens.encoder import IGNORED, Encoder
from tuneserve.llama import LlamaModel
from tuneserve.serve.api.prepare import prepare_turn
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.settings import DataSettings, ModelSettings, Recipe

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
TEMPLATES = {
    "thinks unless told not to": TURNS + "{% if enable_thinking is defined and enable_thinking is "
    "false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    "thinks if told to": TURNS + "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
    "opens, and closes unless told to think": TURNS + "<think>\n{% if not enable_thinking %}\n"
    "</think>\n\n{% endif %}{% endif %}",
    "knows no thoughts": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}
TEMPLATES["knows tools"] = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>\n"
    "{% endif %}" + TEMPLATES["thinks if told to"].replace(
        "{{ m.content }}",
        "{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}"
        "</tool_call>{% endfor %}",
    )
)  # fmt: skip
ASKED = {"role": "user", "content": "1+1?"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CONVERSATIONS = {
    "thoughts": Example(
        "1", (ASKED, {"role": "assistant", "content": "2.", "reasoning_content": "Hm."})
    ),
    "no thoughts": Example.of_turn("1", "1+1?", "2."),
    "tools": Example(
        "1",
        (
            {"role": "system", "content": "Add."}, ASKED,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "2"}, {"role": "assistant", "content": "It is 2."},
        ),
        tools=(TOOL,),
    ),
}  # fmt: skip


class Stages:
    """A run's tokenizer with a template, as each stage of the run meets it."""

    def __init__(self, trained: Trained, folder: Path, template: str, recipe: Recipe) -> None:
        from transformers import AutoTokenizer

        self.recipe = recipe
        self.tokenizer: Any = AutoTokenizer.from_pretrained(trained.base)
        self.tokenizer.chat_template = template
        self.base = trained.base
        self.adapter = shutil.copytree(trained.adapter, folder / "adapter")
        self.gguf = folder / "tuned.gguf"

    def train(self, *examples: Example) -> Encoder:
        """The trainer's encoder; tokenizer and GGUF are written as training and conversion do."""
        prepared = Prepared(Split(train=list(examples)), Counter(), 0)
        encoder = Encoder.of(self.recipe, self.tokenizer, prepared.split.train)
        (self.adapter / "chat_template.jinja").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(self.adapter)
        trained = Trained(self.base, self.adapter, self.adapter)
        model = GGUFModel(trained.merged(), self.adapter, name="tuned")
        write_gguf(
            self.gguf, model.metadata("Q8_0"), model.sources, model.choices("Q8_0"), threads=1
        )
        return encoder


def recipe(thoughts: str) -> Recipe:
    return Recipe(
        model=ModelSettings(max_seq_length=512),
        data=DataSettings(thoughts=thoughts, train_on="last"),
    )


@pytest.mark.parametrize("thoughts", ["train", "mask", "drop"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("example", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_everyone_has_the_ids_that_were_trained(
    trained: Trained, tmp_path: Path, example: Example, template: str, thoughts: str
) -> None:
    stages = Stages(trained, tmp_path, template, recipe(thoughts))
    encoded = stages.train(example).encode(example)
    verifier = TrainerTokenizer(stages.adapter, thoughts=thoughts)
    verified = verifier.encode_example(example)
    assert verified.prompt + verified.answer == encoded.input_ids
    taught = len(encoded.input_ids) - encoded.labels.count(IGNORED)
    untaught = verified.unscored if thoughts == "mask" else 0
    assert taught == len(verified.answer) - untaught
    with LlamaModel(stages.gguf, vocab_only=True) as model:
        (benched,) = encode_examples(model, [example], thoughts=thoughts)
        messages = [dict(message) for message in example.prompt]
        asked = {"messages": messages, "tools": list(example.tools or ()) or None}
        for message in messages:
            if calls := message.pop("tool_calls", None):
                message["tool_calls"] = [
                    {"id": "c", "type": "function",
                     "function": {"name": call["function"]["name"], "arguments": '{"a": 1}'}}
                    for call in calls
                ]  # fmt: skip
            if message["role"] == "tool":
                message["tool_call_id"] = "c"
        request = ChatRequest.model_validate(asked)
        grammars = GrammarCompiler(model)
        served = prepare_turn(model, grammars, template_of(model), request, default_max_tokens=8)
    assert benched.prompt == verified.prompt
    assert benched.answer == verified.answer
    assert benched.unscored == untaught
    assert served.prompt == verified.prompt
    assert [check for check in vocabulary_checks(stages.gguf, verifier, [example])
            if not check.passed] == []  # fmt: skip


def test_what_is_verified_ends_before_the_end_token(trained: Trained) -> None:
    verifier = TrainerTokenizer(trained.adapter)
    example = CONVERSATIONS["no thoughts"]
    (chosen,), (ids,) = choose_sequences(verifier, [example], 512)
    assert ids == (chosen.prompt + chosen.answer)[:-1]
    assert verifier.encode("<|im_end|>") == chosen.answer[-1:]


def test_a_model_trained_with_thoughts_thinks_by_default_in_every_conversation(
    trained: Trained, tmp_path: Path
) -> None:
    """A server does not know which of the answers that it is asked for had thoughts in training."""
    stages = Stages(trained, tmp_path, TEMPLATES["thinks if told to"], recipe("train"))
    thinking, plain = CONVERSATIONS["thoughts"], CONVERSATIONS["no thoughts"]
    encoder = stages.train(thinking, plain)
    prompts = [encoder.prompt_ids(thinking.prompt)]
    for example in (thinking, plain):
        ids = encoder.encode(example).input_ids
        prompts.append(ids[: len(prompts[0])])
    assert prompts[0] == prompts[1] == prompts[2]
    off = encoder.template.render([ASKED], add_generation_prompt=True, enable_thinking=False)
    assert off.endswith("<think>\n\n</think>\n\n")


TEXTS = [
    "hello  world\n\n x", "naïve café — 東京 🙂", "<|im_end|>?", "<think>\nHm.\n</think>\n\n2.", "",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_both_kinds_of_tokenizer_tell_what_a_token_stands_for(
    demo_gguf: Path, tokenizer_directory: Path, text: str
) -> None:
    from transformers import AutoTokenizer

    fast = FastTokenizer(AutoTokenizer.from_pretrained(tokenizer_directory))
    with LlamaModel(demo_gguf, vocab_only=True) as model:
        stored = GGUFTokenizer(model)
        assert stored.tokens(text) == fast.tokens(text)
        assert (stored.leading_bos, stored.end_token) == (fast.leading_bos, fast.end_token)
        assert [t for t in range(64) if stored.is_special(t) != fast.is_special(t)] == []
