"""From a conversation to token ids and labels: the loss counts the answers and their end, only.

The rule, the same as at inference (tuneserve.prompt): the model's own chat template renders the
text; the prompt is tokenized as a whole with special tokens parsed and none added, one BOS in
front where the vocabulary wants it and the template did not write it; the final answer is
tokenized by itself, as it will be when the model writes it after that prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from tuneserve.errors import TuneserveError
from tuneserve.finetune.examples import Example, Message
from tuneserve.finetune.tokens.missing import missing_bytes, missing_character
from tuneserve.prompt import with_bos
from tuneserve.settings import Recipe
from tuneserve.template import ChatTemplate
from tuneserve.thoughts import KEY, Completion, complete, thoughts_end, without_thoughts

IGNORED = -100
"""The label of a token that the loss does not count (torch's ignore_index)."""


class MaskError(TuneserveError):
    """An example can't be turned into tokens to train on."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example, [length], and labels, [length]: the id itself, or IGNORED.

    `length_before_cut` is the length in tokens before it was cut to the longest allowed, and
    `lost` how many trained tokens that cost. `untrained_turns` of the conversation's earlier
    answers can't be trained, for the template renders them otherwise once it goes on.
    """

    input_ids: list[int]
    labels: list[int]
    length_before_cut: int
    lost: int
    untrained_turns: int = 0

    @property
    def trained(self) -> int:
        """Tokens that the loss counts."""
        return sum(label != IGNORED for label in self.labels)

    @property
    def truncated(self) -> bool:
        return self.length_before_cut > len(self.input_ids)


@dataclass(frozen=True)
class _Turn:
    """An earlier answer in the prompt: characters from `start` to `end`, its end token included,
    of which those before `trained_from` are thoughts that are not taught."""

    start: int
    trained_from: int
    end: int

    def trains(self, first: int, last: int) -> bool:
        """Is the token of these characters trained? One that reaches into the answer is."""
        return self.start <= first < last <= self.end and last > self.trained_from


class Encoder:
    """Encodes conversations with a tokenizer and its chat template.

    `tokenizer` is a fast tokenizer of transformers. `max_length` is in tokens; longer examples
    lose their end. `train_on` 'all' trains every answer of a conversation, 'last' the last one.
    `thoughts` says what becomes of an answer's thoughts: 'train' on them, 'mask' them (the model
    reads them but is not taught them) or 'drop' them.
    """

    def __init__(
        self, tokenizer: Any, *, max_length: int, train_on: str = "all", thoughts: str = "train"
    ) -> None:
        if not tokenizer.chat_template:
            raise TuneserveError(
                "this base model has no chat template",
                where=str(tokenizer.name_or_path),
                hint="Choose an instruct model, or name a Jinja file in [model] chat_template.",
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.train_on = train_on
        self.thoughts = thoughts
        self.template = ChatTemplate(
            tokenizer.chat_template,
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token or "",
        )

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: Any) -> Self:
        """The encoder that a recipe asks for."""
        return cls(
            tokenizer,
            max_length=recipe.model.max_seq_length,
            train_on=recipe.data.train_on,
            thoughts=recipe.data.thoughts,
        )

    def encode(self, example: Example) -> Encoded:
        """Ids and labels of one example, cut to `max_length`.

        Raises MaskError naming the example's place if nothing would be trained or a character has
        no token, and TemplateError if the template refuses the conversation.
        """
        messages = example.messages
        if self.thoughts == "drop":
            messages = tuple(without_thoughts(messages))
        if len(messages) == 1:
            self._check_characters(messages[0]["content"], example.where)
            return self._encode_plain(messages[0]["content"])
        answer = messages[-1]
        variables: dict[str, Any] = {"tools": list(example.tools)} if example.tools else {}
        if answer.get(KEY):
            # Some templates close the thoughts in the prompt unless told that there will be any.
            variables["enable_thinking"] = True
        prompt = self.template.render(messages[:-1], add_generation_prompt=True, **variables)
        full = self.template.render(messages, **variables)
        self._check_characters(full, example.where)
        completion = complete(prompt, full, answer["content"], answer.get(KEY))
        if completion is None:
            raise MaskError(
                "the chat template does not render the answer as it is, so it can't be told "
                "from the rest",
                where=example.where,
            )
        turns = self._earlier_answers(prompt, messages, variables)
        prompt_ids, prompt_labels = self._encode_prompt(prompt, [turn for turn in turns if turn])
        answer_ids, answer_labels = self._encode_answer(completion)
        encoded = self._cut(prompt_ids + answer_ids, prompt_labels + answer_labels)
        if not encoded.trained:
            raise MaskError(
                f"no token to train on: the prompt alone has {len(prompt_ids)} tokens and "
                f"max_seq_length is {self.max_length}",
                where=example.where,
            )
        return replace(encoded, untrained_turns=turns.count(None))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation up to where the assistant answers, as at inference."""
        prompt = self.template.render(messages, add_generation_prompt=True)
        return with_bos(self.tokenizer(prompt, add_special_tokens=False)["input_ids"], self.bos)

    def _check_characters(self, text: str, where: str) -> None:
        """Raise MaskError for a character that the vocabulary has no token for: conversion, which
        compares the token ids of held-out texts, would stop on it after training."""
        if character := missing_character(text, self.missing_bytes):
            raise MaskError(
                f"{character!a} (U+{ord(character):04X}) has no token in this base model's "
                "vocabulary, so the model can't read it: take it out",
                where=where,
            )

    def _encode_prompt(self, prompt: str, turns: Sequence[_Turn]) -> tuple[list[int], list[int]]:
        coded = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        labels = [
            token if any(turn.trains(first, last) for turn in turns) else IGNORED
            for token, (first, last) in zip(
                coded["input_ids"], coded["offset_mapping"], strict=True
            )
        ]
        ids = with_bos(coded["input_ids"], self.bos)
        return ids, [IGNORED] * (len(ids) - len(labels)) + labels

    def _earlier_answers(
        self, prompt: str, messages: Sequence[Message], variables: Mapping[str, Any]
    ) -> list[_Turn | None]:
        """The assistant's earlier turns that are to be trained, as they stand in the prompt.

        None for a turn that the template renders otherwise once the conversation goes on (thoughts
        removed, say). It is context only: the model is not taught to write what it never wrote.
        """
        turns: list[_Turn | None] = []
        for number, message in enumerate(messages[:-1] if self.train_on == "all" else ()):
            if message["role"] != "assistant" or message.get("weight") == 0:
                continue
            before = self.template.render(
                messages[:number], add_generation_prompt=True, **variables
            )
            after = self.template.render(messages[: number + 1], **variables).rstrip()
            if not after.startswith(before) or not prompt.startswith(after):
                turns.append(None)
                continue
            masked = self.thoughts == "mask"
            end = thoughts_end(after[len(before) :], message["content"]) if masked else 0
            turns.append(_Turn(len(before), len(before) + end, len(after)))
        return turns

    def _encode_plain(self, text: str) -> Encoded:
        """Text without a prompt: no template, all of it learned, and its end."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        whole = with_bos([*ids, *end], self.bos)
        return self._cut(whole, [*whole])

    def _encode_answer(self, completion: Completion) -> tuple[list[int], list[int]]:
        """The answer's ids and labels, ending with its end-of-turn token and nothing after it."""
        # Templates write a line break behind the end token; the model stops before it.
        ids, labels = self._label(completion.text.rstrip(), completion.thoughts_end)
        if ids and ids[-1] in self.special_ids:
            return ids, labels
        if self.tokenizer.eos_token_id is None:
            raise MaskError("the template ends no turn and the tokenizer has no end token")
        ids, labels = self._label(completion.text, completion.thoughts_end)
        end = self.tokenizer.eos_token_id
        return [*ids, end], [*labels, end]

    def _label(self, text: str, thoughts_end: int) -> tuple[list[int], list[int]]:
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = coded["input_ids"]
        if self.thoughts != "mask":
            return ids, list(ids)
        # A token that reaches into the answer belongs to it.
        labels = [
            token if last > thoughts_end else IGNORED
            for token, (_, last) in zip(ids, coded["offset_mapping"], strict=True)
        ]
        return ids, labels

    def _cut(self, ids: list[int], labels: list[int]) -> Encoded:
        lost = sum(label != IGNORED for label in labels[self.max_length :])
        return Encoded(ids[: self.max_length], labels[: self.max_length], len(ids), lost)

    @cached_property
    def missing_bytes(self) -> re.Pattern[bytes] | None:
        """The bytes that the vocabulary has no token for."""
        return missing_bytes(self.tokenizer)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder
        return frozenset(number for number, token in added.items() if token.special)

    @cached_property
    def bos(self) -> int | None:
        """BOS if this vocabulary wants one in front of every text."""
        ids = self.tokenizer("a")["input_ids"]
        bos: int | None = self.tokenizer.bos_token_id
        return bos if bos is not None and ids[:1] == [bos] else None
