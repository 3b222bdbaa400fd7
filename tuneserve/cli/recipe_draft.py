"""A first recipe for some data and a base: what a look at both suggests."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneserve.base import BaseConfig
from tuneserve.base.window import longest_text
from tuneserve.errors import TuneserveError
from tuneserve.files import read_json
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.timing.lengths import COUNTED, longest_example
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.vocabulary import TEMPLATE
from tuneserve.model_shape import ModelShape
from tuneserve.settings import ModelSettings, Recipe

# Where the longest example is estimated from its characters: some vocabularies take more tokens.
_MARGIN = 1.5
_SHORTEST = 256
# The demo's learning rate, with which a model of this size was measured; larger ones take less.
_SMALL_MODEL, _SMALL_RATE = 500_000_000, 8e-4
# Passes over fewer examples than this.
_EPOCHS = ((500, 3.0), (5_000, 2.0))
_FEW_ANSWERS = 20


@dataclass
class Draft:
    """Settings that a look at data and base suggests, by section, and why, a sentence each."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def add(self, section: str, name: str, value: Any, reason: str) -> None:
        self.settings.setdefault(section, {})[name] = value
        self.reasons.append(f"{section}.{name} = {value}: {reason}")


def draft(recipe: Recipe, prepared: Prepared, base: BaseConfig, shape: ModelShape) -> Draft:
    """What a look at the examples (all of them) and the base suggests."""
    found = Draft()
    spec, examples = recipe.model.base, prepared.split.examples()
    asked = [example for example in examples if example.prompt]
    if asked and has_template(base, spec) is False:
        found.add("model", "chat_template", "instruction", "the base has none")
    _add_length(found, recipe, prepared, base)
    if shape.parameters < _SMALL_MODEL:
        found.add("train", "learning_rate", _SMALL_RATE, "small models need more than large ones")
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
        count = len(answers)
        reason = f"there are {count} different answers"
        if count == 1:
            reason = "WARNING: all answers are the same, so there is nothing to tell apart"
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
