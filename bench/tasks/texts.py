"""Prompts that are texts, which a model goes on with, as evaluation tools for base models ask them;
and how they become token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tuneserve.bench.tasks.tasks import Task
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample, encode_text, template_arguments, template_of
from tuneserve.chat.template import Message
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel


@dataclass(frozen=True)
class TextPrompt:
    """A text to be gone on with: `context` as it stands, or a conversation that the chat template
    makes a text of, a last turn of the assistant's left open. `continuation` is what the likelihood
    is taken of; None: it is generated."""

    example: Example
    context: str | tuple[Message, ...]
    continuation: str | None


@dataclass(frozen=True)
class TextTask:
    """A task whose prompts are texts, with the `figures` that are told of the same answers, each
    a task of its own in the report.

    `references` are the prompts with their reference answers. `asked` are answered, with at most
    `max_tokens` tokens, up to one of the texts in `until`; or the answers are the likeliest of
    `choices`, which are every prompt with every choice.
    """

    name: str
    figures: list[Task]
    references: list[TextPrompt]
    asked: list[TextPrompt] = field(default_factory=list)
    choices: list[TextPrompt] = field(default_factory=list)
    max_tokens: int = 0
    until: tuple[str, ...] = ()

    @property
    def prompts(self) -> list[TextPrompt]:
        """All that is to be encoded."""
        return [*self.references, *self.asked, *self.choices]


def encode_texts(model: LlamaModel, prompts: Sequence[TextPrompt]) -> list[EncodedExample]:
    """The prompts as token ids, special tokens parsed, with one BOS where the vocabulary wants it.

    A context and its continuation are tokenized together, and parted by the length of the context's
    own ids; white space at the context's end is the continuation's. So lm-evaluation-harness does
    (`_encode_pair` in lm_eval/api/model.py). Raises UsageError for a continuation that has no
    tokens of its own.
    """
    texts = _Texts(model)
    return [texts.encode(prompt) for prompt in prompts]


class _Texts:
    """Encodes texts with a model's vocabulary and template, what is the same in a row once."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._last: tuple[str | tuple[Message, ...], str] = ("", "")
        self._last_ids: tuple[str, list[int]] = ("", self._ids(""))

    def encode(self, prompt: TextPrompt) -> EncodedExample:
        if self._last[0] != prompt.context:
            self._last = prompt.context, self._rendered(prompt.context)
        context = self._last[1]
        if prompt.continuation is None:
            ids = self._context_ids(context) or self._first()
            return EncodedExample(prompt.example, ids, [], opens_thought=False)
        bare = context.rstrip()
        rest = context[len(bare) :] + prompt.continuation
        before = self._context_ids(bare) or self._first()
        whole = self._ids(bare + rest)
        # Without a context its place is taken by a token that is not in the whole.
        answer = whole[len(before) :] if bare else whole[len(self._ids("")) :]
        if not answer and prompt.continuation:
            raise UsageError(
                f"{prompt.continuation!r} has no tokens of its own behind its prompt",
                where=prompt.example.where,
                hint="Let the prompt end before it: a target_delimiter such as a space does that.",
            )
        return EncodedExample(prompt.example, before, answer, opens_thought=False)

    def _context_ids(self, text: str) -> list[int]:
        if self._last_ids[0] != text:
            self._last_ids = text, self._ids(text)
        return self._last_ids[1]

    def _ids(self, text: str) -> list[int]:
        return encode_text(self._model, text)

    def _first(self) -> list[int]:
        """What stands before a text that nothing stands before: BOS, or the end of another text."""
        return [self._model.bos if self._model.bos >= 0 else self._model.eos]

    def _rendered(self, context: str | tuple[Message, ...]) -> str:
        if isinstance(context, str):
            return context
        template = template_of(self._model)
        *before, last = context
        opened = str(last["content"]) if last["role"] == "assistant" else ""
        messages = before if opened else context
        arguments = template_arguments(template, messages)
        return template.render(add_generation_prompt=True, **arguments) + opened
