"""What a training asks before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneserve.base import BaseConfig, ResolvedBase
from tuneserve.chat.examples import Example
from tuneserve.convert.preflight.apart import require_convertible
from tuneserve.convert.preflight.configuration import require_planned
from tuneserve.model_files import check_config
from tuneserve.settings import Recipe


@dataclass(frozen=True)
class BeforeTraining:
    """Raises UsageError for what is trained and can't be converted; `place`: where the run is."""

    place: Path

    def configuration(self, recipe: Recipe, base: ResolvedBase) -> None:
        """By config.json and the names of the weights, at once."""
        config = check_config(base.path / "config.json")
        known = BaseConfig(config, str(base.path), base.path)
        require_planned(known, recipe.convert, spec=base.spec)

    def conversion(self, recipe: Recipe, base: ResolvedBase, examples: Sequence[Example]) -> None:
        """By all that can be tried without trained weights."""
        require_convertible(recipe, base, examples, place=self.place)
