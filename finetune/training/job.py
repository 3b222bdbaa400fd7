"""What training needs, checked before any slow work starts or any file is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuneserve.base import ResolvedBase
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.memory.budget import Budget
from tuneserve.finetune.memory.schedule import Schedule
from tuneserve.finetune.runtime.libraries import Runtime
from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.tokens.epoch import TrainingSet
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


@dataclass
class TrainingJob:
    """A training: the examples as tokens by split ('replay': the replay set, 'general':
    what is held out of it), what an epoch visits of them, and how they are trained on."""

    recipe: Recipe
    run: RunDirectory
    base: ResolvedBase
    runtime: Runtime
    tokenizer: Any
    prepared: Prepared
    encoded: dict[str, list[Encoded]]
    training_set: TrainingSet
    schedule: Schedule
    budget: Budget
