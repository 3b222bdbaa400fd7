"""A first recipe for some data and a base: what a look at both suggests."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneserve.base import BaseConfig
from tuneserve.base.window import longest_text
from tuneserve.errors import TuneserveError
from tuneserve.files import read_json
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.hub import local_path
from tuneserve.finetune.data.keys import KNOWN, MARKS
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.data.records import read_records
from tuneserve.finetune.timing.lengths import COUNTED, longest_example
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.vocabulary import TEMPLATE
from tuneserve.model_shape import ModelShape
from tuneserve.settings import ModelSettings, Recipe

_LOOKED_AT = 200
# Where the longest example is estimated from its characters: some vocabularies take more tokens.
_MARGIN = 1.5
_SHORTEST = 256
# The demo's learning rate, with which a model of this size was measured; larger ones take less.
_SMALL_MODEL, _SMALL_RATE = 500_000_000, 8e-4
# Passes over fewer examples than this.
_EPOCHS = ((500, 3.0), (5_000, 2.0))
_FEW_ANSWERS = 20
_ASKED = ("question", "frage", "prompt", "input", "text", "instruction", "query", "pregunta")
_ANSWERED = ("answer", "antwort", "output", "label", "response", "completion", "respuesta")


@dataclass
class Draft:
    """Settings that a look at data and base suggests, by section, and why, a sentence each."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def add(self, section: str, name: str, value: Any, reason: str) -> None:
        self.settings.setdefault(section, {})[name] = value
        self.reasons.append(f"{section}.{name} = {value}: {reason}")


def unknown_columns(path: Path) -> dict[str, bool]:
    """The keys of the first records where none of them says what is asked or answered, and whether
    each record has a value of it; else none. Raises UsageError if the data can't be read."""
    filled: Counter[str] = Counter()
    records = 0
    for raw in itertools.islice(read_records(local_path(path)), _LOOKED_AT):
        if isinstance(raw.record, BadRecord) or not isinstance(raw.record, dict):
            return {}
        records += 1
        for key, value in raw.record.items():
            filled[str(key)] += value not in (None, "")
    if any(key.strip().lower() in MARKS for key in filled):
        return {}
    return {
        key: count == records for key, count in filled.items() if key.strip().lower() not in KNOWN
    }


def guessed_columns(columns: Mapping[str, bool]) -> tuple[str, str]:
    """Of two columns or more, which is probably asked and which answered, by their names or else by
    their places among those that have a value everywhere (the mapping's value)."""
    whole = [column for column, everywhere in columns.items() if everywhere]
    asked = _first_like(columns, _ASKED) or next(iter(whole or columns))
    others = [column for column in columns if column != asked]
    likely = [column for column in whole if column != asked] or others
    return asked, _first_like(others, _ANSWERED) or likely[-1]


def _first_like(columns: Iterable[str], words: Sequence[str]) -> str | None:
    return next((c for word in words for c in columns if word in c.lower()), None)


def draft(recipe: Recipe, prepared: Prepared, base: BaseConfig, shape: ModelShape) -> Draft:
    """What a look at the examples (all of them) and the base suggests."""
    found = Draft()
    spec, examples = recipe.model.base, prepared.split.examples()
    asked = [example for example in examples if example.prompt]
    if asked and has_template(base, spec) is False:
        found.add("model", "chat_template", "instruction", "the base has none")
    _add_length(found, recipe, prepared, base)
    if shape.parameters < _SMALL_MODEL:
        found.add("train", "learning_rate", _SMALL_RATE, "small models take, and need, more")
    for below, epochs in _EPOCHS:
        if len(examples) < below:
            found.add("train", "epochs", epochs, f"fewer than {below:,} examples")
            break
    answers = Counter(example.reference.strip() for example in asked)
    if answers:
        _add_task(found, answers)
    return found


def _add_length(found: Draft, recipe: Recipe, prepared: Prepared, base: BaseConfig) -> None:
    """The longest length, by the examples as `tuneserve plan` counts them."""
    suggested = found.settings.get("model", {})
    # Validated, as the recipe's own file will be: a template's name becomes a path.
    model = ModelSettings.model_validate(suggested | recipe.model.model_dump(exclude_unset=True))
    lengths, longest = longest_example(recipe.model_copy(update={"model": model}), base, prepared)
    about, margin = ("", 1.0) if lengths == COUNTED else ("about ", _MARGIN)
    length = _SHORTEST
    while length < margin * longest:
        length *= 2
    reason = f"the longest example has {about}{longest:,} tokens"
    context = longest_text(base.config)
    if context is not None and 16 <= context < length:
        length = context
        if context < longest:
            reason += f", and this base is made for {context:,}"
    found.add("model", "max_seq_length", length, reason)


def _add_task(found: Draft, answers: Counter[str]) -> None:
    if len(answers) <= _FEW_ANSWERS and answers.total() >= 2 * len(answers):
        reason = f"there are {len(answers)} different answers"
        found.add("bench", "task", "exact", reason)
    elif all(map(_is_object, answers)):
        found.add("bench", "task", "json", "every answer is a JSON object")
    else:
        found.add("bench", "task", "chrf", "answers are free text")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def has_template(base: BaseConfig, spec: str) -> bool | None:
    """Has the base a chat template? None where its tokenizer is not here."""
    if spec.endswith(".gguf"):
        return bool(GGUFFile(Path(spec).expanduser()).get(TEMPLATE))
    folder = base.tokenizer
    if folder is None:
        return None
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        return bool(read_json(folder / "tokenizer_config.json").get("chat_template"))
    except TuneserveError:
        return None
