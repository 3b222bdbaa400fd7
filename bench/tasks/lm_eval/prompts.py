"""A task's documents as prompts: contexts with their continuations, and what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneserve.bench.tasks.lm_eval import shots
from tuneserve.bench.tasks.lm_eval.config import TaskConfig
from tuneserve.bench.tasks.lm_eval.documents import Document, read_split
from tuneserve.bench.tasks.lm_eval.shots import Turn
from tuneserve.bench.tasks.lm_eval.templates import FieldReader
from tuneserve.bench.tasks.lm_eval.yaml_file import TaskFile
from tuneserve.chat.template import Message
from tuneserve.errors import UsageError

Context = str | tuple[Message, ...]


@dataclass(frozen=True)
class Asked:
    """A document as it is asked.

    `pairs` are contexts with their continuations: one for each of the `choices`, of which those in
    `right` are right; where answers are generated, one with the reference. `references` are the
    right answers as texts, `shown` is the number of the first one's pair.
    """

    document: Document
    pairs: list[tuple[Context, str]]
    references: list[str]
    choices: list[str]
    right: frozenset[int]
    shown: int


def read_prompts(
    config: TaskConfig,
    file: TaskFile,
    documents: Sequence[Document],
    picked: Sequence[int],
    *,
    chat: bool,
) -> list[Asked]:
    """The `picked` documents of the split that is asked, with the examples that they have in front
    when all are asked. `chat`: as conversations for a chat template. Raises UsageError with the
    document's place for what can't be asked or scored."""
    choosing = config.doc_to_choice is not None
    reader = FieldReader(documents[0].values.keys(), file.place, choosing=choosing)
    asked = [documents[number] for number in picked]
    in_front = _Shots(config, file, reader, documents, picked)
    return [
        _asked(row, config, in_front.turns(place), chat=chat)
        for place, row in enumerate(_rows(config, reader, asked))
    ]


@dataclass(frozen=True)
class _Row:
    """What the fields make of a document."""

    document: Document
    text: int | str
    target: Any
    choices: list[str] | None
    prefix: str | None
    description: str | None

    @property
    def question(self) -> str:
        """What is asked: of several inputs the one whose number stands for it."""
        if isinstance(self.text, str):
            return self.text
        return (self.choices or [])[self._number(self.text)]

    @property
    def right(self) -> list[int]:
        """The numbers of the right choices."""
        target = self.text if isinstance(self.text, int) else self.target
        found = target if isinstance(target, list) else [target]
        numbers = [self._number(one) for one in found]
        if not numbers:
            raise UsageError("doc_to_target: no choice is right", where=self.document.where)
        return numbers

    def require_choices(self) -> None:
        """Raise UsageError unless there is something to choose from: a single choice would be right
        whatever the model is."""
        different = set(self.choices or [])
        if len(different) < 2:
            raise UsageError(
                f"doc_to_choice: expected two different choices or more, got {self.choices!r}",
                where=self.document.where,
            )

    def _number(self, gold: Any) -> int:
        choices = self.choices or []
        if isinstance(gold, str) and gold in choices:
            return choices.index(gold)
        if isinstance(gold, int) and 0 <= gold < len(choices):
            return int(gold)
        if isinstance(gold, int):
            message = f"there is no choice {gold}: there are {len(choices)}, from 0 on"
        else:
            message = f"{gold!r} is none of the choices {choices!r}"
        raise UsageError(f"doc_to_target: {message}", where=self.document.where)

    @property
    def references(self) -> list[str]:
        """The right answers as texts."""
        if self.choices is not None:
            return [self.choices[number] for number in self.right]
        found = self.target if isinstance(self.target, list) else [self.target]
        if not found or None in found:
            raise UsageError("doc_to_target: there is no answer", where=self.document.where)
        return list(map(str, found))


def _rows(
    config: TaskConfig, reader: FieldReader, documents: Sequence[Document], *, shown: bool = False
) -> list[_Row]:
    """The rows of documents; of those that are `shown` as examples by the fields for these."""
    own = config.fewshot_config if shown else None
    key = ("fewshot_config",) if shown else ()

    def field(name: str) -> tuple[Any, ...]:
        value = getattr(own, name, None)
        return (getattr(config, name), name) if value is None else (value, *key, name)

    choosing = config.doc_to_choice is not None
    choices: Sequence[list[str] | None] = (
        reader.choices(documents, *field("doc_to_choice")) if choosing else [None] * len(documents)
    )
    return [
        _Row(*parts)
        for parts in zip(
            documents,
            reader.texts(documents, *field("doc_to_text")),
            reader.targets(documents, *field("doc_to_target")),
            choices,
            reader.optional(documents, *field("gen_prefix")),
            reader.optional(documents, None if shown else config.description, "description"),
            strict=True,
        )
    ]


class _Shots:
    """The examples in front of each prompt, as turns."""

    def __init__(
        self,
        config: TaskConfig,
        file: TaskFile,
        reader: FieldReader,
        documents: Sequence[Document],
        picked: Sequence[int],
    ) -> None:
        self._drawn: list[list[Document]] = [[]] * len(picked)
        self._turns: Mapping[int, list[Turn]] = {}
        if not config.num_fewshot:
            return
        pool = _pool(config, file, documents)
        sampler = shots.Sampler(config, pool, file.place("num_fewshot"))
        # Every document draws, asked or not: so each has what it has when all are asked.
        drawn = [sampler.sample(document) for document in documents]
        self._drawn = [drawn[number] for number in picked]
        needed = list({id(one): one for each in self._drawn for one in each}.values())
        rows = _rows(config, reader, needed, shown=True)
        self._turns = {id(row.document): _shown(row, config) for row in rows}

    def turns(self, place: int) -> list[Turn]:
        return [turn for one in self._drawn[place] for turn in self._turns[id(one)]]


def _pool(config: TaskConfig, file: TaskFile, documents: Sequence[Document]) -> Sequence[Document]:
    split = config.pool_split
    if split is None:
        samples = config.fewshot_config.samples or []
        return [
            Document(sample, file.place("fewshot_config", "samples", number))
            for number, sample in enumerate(samples)
        ]
    return documents if split == config.asked_split else read_split(config, file, split)


def _shown(row: _Row, config: TaskConfig) -> list[Turn]:
    own = config.fewshot_config
    delimiter, end = own.target_delimiter, own.fewshot_delimiter
    several = isinstance(row.text, int)
    answer = shots.answer_text(row.target, None if several else row.choices, row.document.where)
    return shots.example(
        row.question,
        answer,
        row.prefix,
        config.target_delimiter if delimiter is None else delimiter,
        config.fewshot_delimiter if end is None else end,
    )


def _asked(row: _Row, config: TaskConfig, in_front: list[Turn], *, chat: bool) -> Asked:
    before = [Turn("system", row.description)] if row.description else []
    before += in_front
    delimiter = config.target_delimiter
    if chat and not (config.gen_prefix and not config.gen_prefix[-1].isspace()):
        # The template has ended the question.
        behind = ""
    else:
        behind = delimiter

    def context(text: str, between: str) -> Context:
        turns = [*before, *shots.question(text, row.prefix, between)]
        return shots.as_messages(turns) if chat else shots.as_text(turns)

    choices, right = row.choices or [], frozenset[int]()
    if config.output_type == "generate_until":
        if not isinstance(row.text, str):
            raise UsageError(
                f"doc_to_text: expected a text, got {row.text}", where=row.document.where
            )
        pairs = [(context(row.text, delimiter), behind + row.references[0])]
        return Asked(row.document, pairs, row.references, choices, right, shown=0)
    row.require_choices()
    right = frozenset(row.right)
    if isinstance(row.text, int):
        pairs = [(context(choice, ""), f"{behind}{row.target}") for choice in choices]
    else:
        pairs = [(context(row.text, delimiter), behind + choice) for choice in choices]
    return Asked(row.document, pairs, row.references, choices, right, shown=row.right[0])
