"""The types that change the answers least: groups are measured, types weighed, sizes filled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuneserve.console import human_bytes, progress
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import fitting_type
from tuneserve.convert.gguf.writer import encoded_size
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.mixture.answers import find_answers
from tuneserve.convert.mixture.errors import rounding_errors
from tuneserve.convert.mixture.groups import KEPT_TYPES, group_tensors, types_of
from tuneserve.convert.mixture.knapsack import Option, choose_options
from tuneserve.convert.mixture.limit import BASELINE, size_limit
from tuneserve.convert.mixture.trial import Trial
from tuneserve.convert.result import Mix
from tuneserve.errors import UsageError
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

PROBES = ("Q4_K", "IQ4_NL")
"""The type that a group is tried in, by the block its rows allow."""
BISECTIONS = 8


def check_limit(model: GGUFModel, settings: ConvertSettings) -> None:
    """Raise UsageError if not even the smallest types fit the size limit."""
    choices = model.choices(BASELINE, has_imatrix=True)
    shapes = {name: source.shape for name, source in model.sources.items()}
    usual = sum(encoded_size(shapes[choice.name], choice.type) for choice in choices)
    smallest = 0
    for choice in choices:
        shape = shapes[choice.name]
        kinds = (choice.type,) if choice.type in KEPT_TYPES else types_of(shape)
        smallest += min(encoded_size(shape, kind) for kind in kinds)
    limit = size_limit(settings, usual)
    if smallest > limit and not settings.max_divergence:
        raise UsageError(
            f"the smallest types take {human_bytes(smallest)}, {human_bytes(limit)} are allowed",
            where="size_limit",
        )


def choose_mix(
    path: Path,
    model: GGUFModel,
    run: RunDirectory,
    matrix: ImportanceMatrix,
    settings: ConvertSettings,
    *,
    threads: int,
) -> Mix:
    """Choose the types of `model`'s matrices under the settings' `size_limit`, or of the smallest
    file within `max_divergence`.

    `path` is `model` as a GGUF in 16 or 8 bits; it is changed while this runs. Raises UsageError if
    no types fit.
    """
    with Trial(path, model.sources, matrix.means(), threads=threads) as trial:
        trial.compare_on(find_answers(trial.model, run, settings.mix_tokens))
        search = _Search(model, matrix, trial, settings, threads)
        return search.within_divergence() if settings.max_divergence else search.within_size()


class _Search:
    def __init__(
        self,
        model: GGUFModel,
        matrix: ImportanceMatrix,
        trial: Trial,
        settings: ConvertSettings,
        threads: int,
    ) -> None:
        self._trial, self._settings = trial, settings
        self._shapes = {name: source.shape for name, source in model.sources.items()}
        choices = model.choices(BASELINE, has_imatrix=True)
        free = {c.name: self._shapes[c.name] for c in choices if c.type not in KEPT_TYPES}
        self._groups = group_tensors(free, settings.mix_tries)
        self._names = [name for group in self._groups for name in group]
        self._baseline = {c.name: c.type for c in choices if c.name in self._names}
        self._fixed = sum(
            encoded_size(self._shapes[c.name], c.type) for c in choices if c.name not in self._names
        )
        types = {name: types_of(self._shapes[name]) for name in self._names}
        errors = rounding_errors(model.sources, types, matrix.means(), threads=threads)
        self._options = self._measured(errors)
        self._baseline_harm = trial.harm(self._baseline)

    def within_size(self) -> Mix:
        """The least divergence within the size limit; never worse than BASELINE where that fits."""
        baseline_bytes = self._bytes(self._baseline)
        limit = size_limit(self._settings, baseline_bytes, self._trial.header_bytes)
        types = self._chosen(limit)
        found = self._trial.harm(types)
        if found > self._baseline_harm and baseline_bytes <= limit:
            types, found = self._baseline, self._baseline_harm
        return self._mix(types, found)

    def within_divergence(self) -> Mix:
        """The smallest size whose measured divergence is within the limit, by bisection."""
        wanted = self._settings.max_divergence
        sizes = [[option.bytes for option in options] for options in self._options]
        low, high = (self._fixed + sum(map(pick, sizes)) for pick in (min, max))
        best = self._chosen(high)
        found = self._trial.harm(best)
        if found > wanted:
            raise UsageError(
                f"the finest types still diverge by {found:.1e} (nats)", where="max_divergence"
            )
        for _ in range(BISECTIONS):
            middle = (low + high) // 2
            types = self._chosen(middle)
            harm = self._trial.harm(types)
            if harm <= wanted:
                best, found, high = types, harm, middle
            else:
                low = middle
        return self._mix(best, found)

    def _measured(self, errors: Mapping[str, Mapping[str, float]]) -> list[list[Option]]:
        """What each type of each tensor costs: a group's harm in one type is measured, shared among
        its tensors and scaled to other types by their rounding errors."""
        options = []
        with progress("what rounding costs", len(self._groups), unit="groups") as advance:
            for group in self._groups:
                kind = probe_of(self._shapes[group[0]])
                harm = self._trial.harm(dict.fromkeys(group, kind))
                error = sum(errors[name][kind] for name in group)
                per_error = harm / error if error else 0.0
                options += [
                    [
                        Option(other, encoded_size(self._shapes[name], other), per_error * far)
                        for other, far in errors[name].items()
                    ]
                    for name in group
                ]
                advance(1)
        return options

    def _chosen(self, limit: int) -> dict[str, str]:
        chosen = choose_options(self._options, limit - self._fixed)
        return {name: option.type for name, option in zip(self._names, chosen, strict=True)}

    def _bytes(self, types: Mapping[str, str]) -> int:
        return self._fixed + sum(encoded_size(self._shapes[n], kind) for n, kind in types.items())

    def _mix(self, types: Mapping[str, str], found: float) -> Mix:
        return Mix(
            types=dict(types), bytes=self._bytes(types), divergence=found,
            baseline_bytes=self._bytes(self._baseline), baseline_divergence=self._baseline_harm,
            passes=self._trial.runs,
        )  # fmt: skip


def probe_of(shape: tuple[int, ...]) -> str:
    """The type of about 4 bits that a tensor of this shape is tried in."""
    return next(
        (kind for kind in PROBES if fitting_type(kind, shape[-1]) == kind), types_of(shape)[-1]
    )
