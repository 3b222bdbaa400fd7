"""Examples to token ids and labels: the loss counts the answers and their end, only.

How prompt and answer become token ids is said in tuneserve.chat.prompt, the same as at inference;
here are the labels, the cut to the longest length, and the figures that are known before training
starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any, Self

from tuneserve.base.fast_tokenizer import swallows_whitespace, without_stripping
from tuneserve.chat.ahead import rendered_ahead
from tuneserve.chat.completeness import lost_parts
from tuneserve.chat.examples import CONTINUES, Example
from tuneserve.chat.prompt import (
    EncodedExample,
    EncodingError,
    FastTokenizer,
    encode,
    template_arguments,
    thinking_by_default,
    with_bos,
)
from tuneserve.chat.template import ChatTemplate, Message, TemplateLimitError
from tuneserve.chat.template_traits import template_traits
from tuneserve.chat.thinking import REASONING, without_thoughts
from tuneserve.errors import TuneserveError
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.data.reading import raise_problems
from tuneserve.finetune.tokens.missing import missing_bytes, missing_character
from tuneserve.finetune.tokens.sequences import (
    check_special_tokens,
    per_answer,
    pieces,
    strings,
    without_end_tokens,
)
from tuneserve.records import Number, Record
from tuneserve.settings import Recipe

IGNORED = -100
"""The label of a token that the loss does not count (torch's ignore_index)."""


class TooLongError(EncodingError):
    """An example is longer than max_seq_length and is not to be cut."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example, [length], and labels, [length]: the id itself, or IGNORED.

    `length_before_cut` is the length in tokens before it was cut to the longest allowed, and
    `lost` how many trained tokens that cost. `untaught` are the places in the conversation of the
    earlier answers that are not trained here, for the template renders them otherwise once it goes
    on. `where` is the example's place in its file.
    """

    input_ids: list[int]
    labels: list[int]
    length_before_cut: int
    lost: int
    untaught: tuple[int, ...] = ()
    where: str = ""

    @property
    def trained(self) -> int:
        """Tokens that the loss counts."""
        return sum(label != IGNORED for label in self.labels)

    @property
    def truncated(self) -> bool:
        return self.length_before_cut > len(self.input_ids)


class Spread(Record):
    """Of counts: the smallest, the median and the largest."""

    min: int
    median: Number
    max: int


class TokenCounts(Record):
    """Tokens of a set of examples, trained ones, and what cutting to the longest length cost."""

    examples: int
    tokens: int
    longest: int = 0
    trained_tokens: int
    trained_per_example: Spread = Spread(min=0, median=0, max=0)
    truncated: int = 0
    trained_tokens_lost: int = 0


class Encoder:
    """Encodes conversations with a tokenizer and its chat template.

    `tokenizer` is a fast tokenizer of transformers. `max_length` is in tokens; of longer examples
    `too_long` says whether they lose their end ('cut') or are errors. `train_on` 'all' trains every
    answer of a conversation, 'last' the last one. `thoughts` says what becomes of an answer's
    thoughts: 'train' on them, 'mask' them (the model reads them but is not taught them) or 'drop'
    them; `special_tokens` what becomes of special tokens that a text spells out.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        train_on: str = "all",
        thoughts: str = "train",
        special_tokens: str = "text",
        too_long: str = "cut",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.train_on = train_on
        self.thoughts = thoughts
        self.mode = special_tokens
        self.too_long = too_long
        self._fast = FastTokenizer(tokenizer, protects=special_tokens != "control")
        self.special_ids = self._fast.special_ids

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template. Raises TuneserveError if it has none: texts without a
        prompt need none."""
        return self._fast.template()

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: Any, trained: Sequence[Example]) -> Self:
        """The encoder that a recipe and the examples to train on ask for.

        Where thoughts are trained, the tokenizer gets a template that sets `enable_thinking` unless
        the caller does: clients of the trained model do not know that they have to.
        """
        trains_thoughts = recipe.data.thoughts != "drop" and any(
            example.thoughts for example in trained
        )
        if trains_thoughts and tokenizer.chat_template:
            tokenizer.chat_template = thinking_by_default(tokenizer.chat_template)
        return cls(
            tokenizer,
            max_length=recipe.model.max_seq_length,
            train_on=recipe.data.train_on,
            thoughts=recipe.data.thoughts,
            special_tokens=recipe.data.special_tokens,
            too_long=recipe.data.too_long,
        )

    @cached_property
    def missing_bytes(self) -> re.Pattern[bytes] | None:
        """The bytes that the vocabulary has no token for."""
        return missing_bytes(self.tokenizer)

    def sequences(self, example: Example, notes: Notes) -> list[tuple[Example, Encoded]]:
        """What is trained for an example: itself, or one example for each answer that the template
        changes once the conversation goes on, or pieces of a text that is too long.

        Raises EncodingError and TemplateError as `encode` does, and EncodingError for what the
        template does not write.
        """
        example = self.read(example, notes)
        if not example.prompt:
            return self._texts(example, notes)
        encoded = self.encode(example)
        if not encoded.untaught:
            return [(example, encoded)]
        if any(encoded.untaught):
            notes.add(
                "a conversation of several answers, trained in one example per answer: this "
                "template changes earlier answers when a conversation goes on",
                example.where, odd=False,
            )  # fmt: skip
        if 0 in encoded.untaught:
            notes.add("a greeting that this template changes later: read, and not trained",
                      example.where)  # fmt: skip
        parts = per_answer(example, encoded.untaught)
        for part in parts[:-1]:
            self._check_whole(part, Notes())
        return [(part, self.encode(part)) for part in parts]

    def read(self, example: Example, notes: Notes) -> Example:
        """An example without what its text brings beside text. Raises EncodingError for what can't
        be trained as it is meant."""
        example = without_end_tokens(example, self._fast, notes)
        check_special_tokens(example, self._fast, self.mode, notes)
        if example.prompt:
            self._check_whole(example, notes)
        return example

    def encode(self, example: Example) -> Encoded:
        """Ids and labels of one example, cut to `max_length`.

        Raises EncodingError naming the example's place if nothing would be trained, the template
        does not render its answer, or the example is too long and is not to be cut, and
        TemplateError if the template refuses the conversation.
        """
        self._check_characters(example)
        item = encode(
            self._fast,
            self.template if example.prompt else None,
            example,
            thoughts=self.thoughts,
            train_on=self.train_on,
        )
        ids = item.prompt + item.answer
        self._check_whitespace(example, ids)
        labels = _labels(item)
        lost = sum(label != IGNORED for label in labels[self.max_length :])
        length, cut = len(ids), slice(self.max_length)
        encoded = Encoded(ids[cut], labels[cut], length, lost, item.untaught, example.where)
        if lost and self.too_long != "cut":
            raise TooLongError(
                f"it has {length:,} tokens and max_seq_length is {self.max_length:,}",
                where=example.where,
            )
        if not encoded.trained:
            raise EncodingError(
                f"no token to train on: the prompt alone has {len(item.prompt)} tokens and "
                f"max_seq_length is {self.max_length}",
                where=example.where,
            )
        return encoded

    def _texts(self, example: Example, notes: Notes) -> list[tuple[Example, Encoded]]:
        tokens = self._fast.tokens(self._fast.special_tokens.protect(example.reference))
        room = self.max_length - 2  # for BOS and an end token
        if len(tokens) <= room or self.too_long != "cut":
            return [(example, self.encode(example))]
        notes.add("a text longer than max_seq_length, cut into pieces", example.where, odd=False)
        return [(part, self.encode(part)) for part in pieces(example, tokens, room)]

    def _check_whole(self, example: Example, notes: Notes) -> None:
        """Raise EncodingError for parts of the conversation that the template does not write."""
        thinks = self.thoughts != "drop" and any(m.get(REASONING) for m in example.messages)
        if thinks and template_traits(self.template).own_thoughts:
            raise EncodingError(
                "this base's chat template writes thoughts in a form of its own, in which they "
                "can't be trained here: take them out, or set thoughts to drop",
                where=example.where,
            )
        lost = lost_parts(self.template, example, thoughts=self.thoughts)
        kinds = {part.kind for part in lost}
        if "name" in kinds:
            notes.add("names of speakers, which this template does not write", example.where)
        if "thoughts" in kinds:
            trained = self.thoughts == "train" and self.train_on == "all"
            notes.add(
                "thoughts of earlier answers, which this template does not write: "
                + (
                    "they are trained, but the answers after them do not see them"
                    if trained
                    else "the answers after them do not see them"
                ),
                example.where,
            )
        if missing := dict.fromkeys(part.name for part in lost if part.kind == "content"):
            raise EncodingError(
                f"this base's chat template does not write {', '.join(missing)}: the model would "
                "never see it; write the record otherwise, or leave such records out",
                where=example.where,
            )

    def ahead(self, examples: Sequence[Example]) -> Iterator[Example]:
        """The examples one after the other, their renderings made together for many."""
        template = self.template if any(example.prompt for example in examples) else None
        return rendered_ahead(
            self._fast, template, examples, thoughts=self.thoughts, train_on=self.train_on
        )

    def encode_all(self, examples: Sequence[Example]) -> list[Encoded]:
        """The tokens of examples. Raises UsageError listing each that can't be trained on."""
        _, encoded, problems = encode_each(self, examples, expand=False)
        raise_problems(problems, len(examples), what="trained on")
        return encoded

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation up to where the assistant answers, as at inference."""
        protected = [self._fast.special_tokens.protect(message) for message in messages]
        arguments = template_arguments(self.template, protected)
        prompt = self.template.render(add_generation_prompt=True, **arguments)
        return with_bos([token.id for token in self._fast.tokens(prompt)], self._fast.leading_bos)

    @cached_property
    def _plain(self) -> FastTokenizer | None:
        """The tokenizer as llama.cpp has it, where special tokens swallow whitespace here alone."""
        if not swallows_whitespace(self.tokenizer):
            return None
        return FastTokenizer(without_stripping(self.tokenizer), protects=self.mode != "control")

    def _check_whitespace(self, example: Example, ids: Sequence[int]) -> None:
        """Raise EncodingError for an example whose tokens are other ones when it is served, because
        whitespace stands beside a special token that swallows it."""
        if self._plain is None:
            return
        served = encode(
            self._plain, self.template if example.prompt else None, example,
            thoughts=self.thoughts, train_on=self.train_on,
        )  # fmt: skip
        if served.prompt + served.answer != list(ids):
            raise EncodingError(
                "a text of it begins or ends with whitespace, which this base's special tokens "
                "swallow and llama.cpp's do not: take it away",
                where=example.where,
            )

    def _check_characters(self, example: Example) -> None:
        """Raise EncodingError for a character that the vocabulary has no token for: conversion,
        which compares the token ids of held-out texts, would stop on it after training."""
        if self.missing_bytes is None:
            return
        messages = example.messages
        if self.thoughts == "drop":
            messages = tuple(without_thoughts(messages))
        for text in strings([messages, example.tools]):
            if character := missing_character(text, self.missing_bytes):
                raise EncodingError(
                    f"{character!a} (U+{ord(character):04X}) has no token in this base model's "
                    "vocabulary, so the model can't read it: take it out",
                    where=example.where,
                )


def _labels(item: EncodedExample) -> list[int]:
    """[length of prompt and answer]: what is taught; of a text all of it, BOS included."""
    if not item.example.prompt:
        return item.prompt + item.answer
    context = [
        token if place in item.taught else IGNORED for place, token in enumerate(item.prompt)
    ]
    return context + [IGNORED] * item.unscored + item.answer[item.unscored :]


def encode_each(
    encoder: Encoder,
    examples: Sequence[Example],
    notes: Notes | None = None,
    *,
    expand: bool = True,
) -> tuple[list[Example], list[Encoded], list[str]]:
    """What can be trained on, its tokens, and what is wrong with the other examples. With `expand`
    an example may become several; without, it stays one (an answer that is held out is one).

    What is too long is left out only where there are `notes` to tell it, else it is a problem.
    """
    kept: list[Example] = []
    encoded: list[Encoded] = []
    problems: list[str] = []
    leaves_out = encoder.too_long == "drop" and notes is not None
    notes = Notes() if notes is None else notes
    for example in encoder.ahead(examples):
        try:
            if expand:
                found = encoder.sequences(example, notes)
            else:
                read = encoder.read(example, notes)
                found = [(read, encoder.encode(read))]
        except TooLongError as error:
            if leaves_out:
                notes.add(
                    "an example longer than max_seq_length, left out", example.where, odd=False
                )
            else:
                problems.append(f"{example.where}: {error.message}")
            continue
        except TemplateLimitError:
            # It is the template's doing, and each example would take as long.
            raise
        except TuneserveError as error:
            problems.append(f"{example.where}: {error.message}")
            continue
        kept += [part for part, _ in found]
        encoded += [tokens for _, tokens in found]
    return kept, encoded, problems


def encode_parts(
    encoder: Encoder, prepared: Prepared, *, skip_bad: bool
) -> tuple[dict[str, list[Encoded]], list[str]]:
    """Every part of the data as tokens, and what is wrong with the examples that can't be trained
    on. These leave their part; with `skip_bad` they are counted as skipped and are no problem,
    unless their part would be empty."""
    encoded: dict[str, list[Encoded]] = {}
    problems: list[str] = []
    for name, part in prepared.parts().items():
        part[:], encoded[name], found = encode_each(
            encoder, part, prepared.notes, expand=name != "test"
        )
        if skip_bad and part:
            prepared.skipped += len(found)
            prepared.refused += found
        else:
            problems += found
    problems += problems_with_ends(encoder, prepared.split.train, encoded["train"])
    return encoded, problems


def problems_with_ends(
    encoder: Encoder, examples: Sequence[Example], encoded: Sequence[Encoded]
) -> list[str]:
    """What is wrong with the ends of answers: one that is not cut must end with an end token, and
    not all may be cut, or the model never learns to stop. Texts without a prompt may be."""
    ends = {*encoder.special_ids, encoder.tokenizer.eos_token_id}
    found = [
        f"{example.where}: the answer has no end token"
        for example, item in zip(examples, encoded, strict=True)
        if not item.truncated
        and item.labels[-1] not in ends
        and not example.messages[-1].get(CONTINUES)
    ]
    answers = [item for e, item in zip(examples, encoded, strict=True) if len(e.messages) > 1]
    if answers and all(item.truncated for item in answers):
        found.append(
            f"{examples[0].where}: this and every other training example is cut to "
            f"max_seq_length ({encoder.max_length}): no answer keeps its end"
        )
    return found


def token_counts(encoded: Sequence[Encoded]) -> TokenCounts:
    """The counts of a set of examples."""
    if not encoded:
        return TokenCounts(examples=0, tokens=0, trained_tokens=0)
    trained = [item.trained for item in encoded]
    return TokenCounts(
        examples=len(encoded),
        tokens=sum(len(item.input_ids) for item in encoded),
        longest=max(len(item.input_ids) for item in encoded),
        trained_tokens=sum(trained),
        trained_per_example=Spread(min=min(trained), median=median(trained), max=max(trained)),
        truncated=sum(item.truncated for item in encoded),
        trained_tokens_lost=sum(item.lost for item in encoded),
    )


def to_dataset(encoded: Sequence[Encoded]) -> Any:
    """A datasets.Dataset with input_ids and labels, ready for the trainer."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [item.input_ids for item in encoded],
            "labels": [item.labels for item in encoded],
        }
    )
