"""Contract: the file's chat template is the trainer's, and renders as transformers renders it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import render_example, template_of
from tuneserve.chat.template import ChatTemplate, Message, TemplateError, TemplateLimitError
from tuneserve.convert.result import Check
from tuneserve.convert.verify.conversations import CONVERSATIONS, TOOL
from tuneserve.convert.verify.hard_strings import first_difference
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel

CONTRACT = "chat template"
# What is rendered with each conversation besides.
VARIABLES: Sequence[Mapping[str, Any]] = (
    {}, {"enable_thinking": True}, {"enable_thinking": False}, {"tools": [TOOL]},
)  # fmt: skip


def check_template(
    trainer: TrainerTokenizer, model: LlamaModel, examples: Sequence[Example]
) -> Check:
    """The template's text, and what transformers' renderer makes of the trainer's against what
    ours makes of the GGUF's: held-out prompts, and conversations of every kind."""
    source = model.metadata("tokenizer.chat_template") or ""
    expected = trainer.template_source
    if source != expected:
        place = first_difference(expected, source)
        return Check(
            CONTRACT, False,
            f"the texts differ from character {place} on: training has "
            f"{expected[place : place + 40]!r}, the GGUF {source[place : place + 40]!r}",
        )  # fmt: skip
    try:
        asked = [example for example in examples if example.prompt]
        problem, kinds = None, 0
        if source:
            template = template_of(model)
            pairs = [*_of_examples(trainer, template, asked), *_of_kinds(trainer, template)]
            kinds = len(pairs) - len(asked)
            problem = next(filter(None, (_difference(*pair) for pair in pairs)), None)
        elif asked:
            template_of(model)  # says that there is none
    except TuneserveError as error:
        return Check(CONTRACT, False, str(error))
    return Check(
        CONTRACT, problem is None,
        problem or f"the same text; equal on {len(asked)} prompts and {kinds} other conversations",
        {"prompts": len(asked), "conversations": kinds},
    )  # fmt: skip


def _difference(theirs: str, ours: str) -> str | None:
    if theirs == ours:
        return None
    place = first_difference(theirs, ours)
    return (
        f"a prompt is rendered differently: training has {theirs[place : place + 40]!r}, "
        f"the GGUF {ours[place : place + 40]!r}"
    )


def _of_examples(
    trainer: TrainerTokenizer, template: ChatTemplate, examples: Sequence[Example]
) -> Iterator[tuple[str, str]]:
    for example in examples:
        ours = render_example(template, example, thoughts=trainer.thoughts).prompt
        yield trainer.render(example), ours


def _of_kinds(trainer: TrainerTokenizer, template: ChatTemplate) -> Iterator[tuple[str, str]]:
    """Conversations that the template takes; one that it refuses must be refused by both."""
    for messages in CONVERSATIONS:
        for variables in VARIABLES:
            for prompt in (False, True):
                arguments = {**variables, "add_generation_prompt": prompt}
                yield (
                    _or_refusal(trainer.render_plainly, messages, arguments),
                    _or_refusal(template.render, messages, arguments),
                )


def _or_refusal(render: Any, messages: Sequence[Message], arguments: Mapping[str, Any]) -> str:
    try:
        return str(render([dict(message) for message in messages], **arguments))
    except TemplateLimitError:
        raise
    except TemplateError:
        return "refused"
