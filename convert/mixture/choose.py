"""The types that change the answers least: groups are measured, types weighed, sizes filled, and
again with the groups in the types found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneserve.console import progress
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import Choice, Shape, is_quantizable
from tuneserve.convert.gguf.writer import header_size, stored_size
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.mixture.answers import find_answers
from tuneserve.convert.mixture.estimates import Estimates
from tuneserve.convert.mixture.groups import KEPT_TYPES, group_tensors, types_of
from tuneserve.convert.mixture.knapsack import Option, choose_options
from tuneserve.convert.mixture.limit import BASELINE, size_limit
from tuneserve.convert.mixture.roundings import measure_roundings
from tuneserve.convert.mixture.trial import PROVENANCE, Trial
from tuneserve.convert.result import Mix
from tuneserve.convert.verify.update import base_name
from tuneserve.errors import UsageError
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings
from tuneserve.sizes import size_like

ROUNDS = 2
"""How often the groups are measured again in the types that were chosen for them."""
BISECTIONS = 8


def check_limit(model: GGUFModel, settings: ConvertSettings) -> None:
    """Raise UsageError if not even the smallest types fit the size limit; known from shapes."""
    if settings.max_divergence:
        return
    choices = model.choices(BASELINE, has_imatrix=True)
    shapes = {name: source.shape for name, source in model.sources.items()}
    usual = sum(stored_size(shapes[choice.name], choice.type) for choice in choices)
    smallest = sum(
        min(stored_size(shapes[choice.name], kind) for kind in _types_for(choice, shapes))
        for choice in choices
    )
    header = header_size(model.metadata(BASELINE), model.sources, choices) + PROVENANCE
    allowed = size_limit(settings, usual, header)
    if smallest <= allowed:
        return
    given = settings.size_limit
    if given.strip().endswith("%"):
        may, takes, needed = (f"{count + header:,} bytes" for count in (allowed, smallest, 0))
        least = size_like(given, smallest, usual)
    else:
        may, needed = given, size_like(given, header)
        takes = least = size_like(given, smallest + header)
    raise UsageError(
        f"a file of {may} is allowed, the smallest types take {takes} "
        f"({needed} of that for header and vocabulary)",
        where=f"size_limit = {given}",
        hint="The smallest that can be written (whether so few bits are enough shows when it is "
        f"verified): --size-limit {least}",
    )  # fmt: skip


def _types_for(choice: Choice, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """The types that the tensor of this choice may have."""
    shape = shapes[choice.name]
    free = choice.type not in KEPT_TYPES and is_quantizable(choice.name, shape)
    return types_of(shape) if free else (choice.type,)


def choose_mix(
    path: Path,
    model: GGUFModel,
    base: GGUFModel,
    run: RunDirectory,
    matrix: ImportanceMatrix,
    settings: ConvertSettings,
    *,
    threads: int,
) -> Mix:
    """Choose the types of `model`'s matrices under the settings' `size_limit`, or of the smallest
    file within `max_divergence`.

    `path` is `model` as a GGUF in 16 or 8 bits; it is changed while this runs. `base`: the model
    before the tune. Raises UsageError if no types fit.
    """
    with Trial(path, model.sources, matrix.means(), threads=threads) as trial:
        trial.compare_on(find_answers(trial.model, run, settings.mix_tokens))
        search = _Search(model, base, matrix, trial, settings, threads)
        return search.within_divergence() if settings.max_divergence else search.within_size()


class _Search:
    def __init__(
        self,
        model: GGUFModel,
        base: GGUFModel,
        matrix: ImportanceMatrix,
        trial: Trial,
        settings: ConvertSettings,
        threads: int,
    ) -> None:
        self._trial, self._settings = trial, settings
        self._shapes = {name: source.shape for name, source in model.sources.items()}
        choices = model.choices(BASELINE, has_imatrix=True)
        free = {c.name: self._shapes[c.name] for c in choices if c.type not in KEPT_TYPES}
        self._groups = group_tensors(free, settings.mix_tries // (ROUNDS + 1))
        self._names = [name for group in self._groups for name in group]
        self._baseline = {c.name: c.type for c in choices if c.name in self._names}
        self._fixed = sum(
            stored_size(self._shapes[c.name], c.type) for c in choices if c.name not in self._names
        )
        types = {name: types_of(self._shapes[name]) for name in self._names}
        before = {
            name: base.sources[base_name(base.sources, name)]
            for name in self._names
            if name in model.changed
        }
        roundings = measure_roundings(
            model.sources, types, matrix.means(), before, threads=threads
        )  # fmt: skip
        self._estimates = Estimates(
            self._groups, roundings, self._shapes, trial.half_back(before)
        )  # fmt: skip
        self._measured: set[tuple[tuple[str, str], ...]] = set()
        parts = [self._estimates.probes(number) for number in range(len(self._groups))]
        self._estimates.start(self._harms(parts))
        self._baseline_harm = trial.harm(self._baseline)

    def within_size(self) -> Mix:
        """The least divergence within the size limit; never worse than BASELINE where that fits."""
        baseline_bytes = self._bytes(self._baseline)
        limit = size_limit(self._settings, baseline_bytes, self._trial.header_bytes)
        best = self._chosen(limit)
        found = self._trial.harm(best)
        types = best
        for _ in range(ROUNDS):
            if not self._measure_again(types):
                break
            types = self._chosen(limit)
            harm = self._trial.harm(types)
            if harm < found:
                best, found = types, harm
        if found > self._baseline_harm and baseline_bytes <= limit:
            best, found = self._baseline, self._baseline_harm
        return self._mix(best, found)

    def within_divergence(self) -> Mix:
        """The smallest size whose measured divergence is within the limit, by bisection."""
        wanted = self._settings.max_divergence
        sizes = [[option.bytes for option in options] for options in self._options(keeping=False)]
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

    def _measure_again(self, types: Mapping[str, str]) -> bool:
        """Measure the groups in these types; False if all of them were, or no passes are left."""
        parts = [{name: types[name] for name in group} for group in self._groups]
        new = [n for n, part in enumerate(parts) if _key(part) not in self._measured]
        if not new or self._trial.runs + len(new) >= self._settings.mix_tries:
            return False
        for number, harm in zip(new, self._harms([parts[n] for n in new]), strict=True):
            self._estimates.correct(number, parts[number], harm)
        return True

    def _harms(self, parts: Sequence[Mapping[str, str]]) -> list[float]:
        harms = []
        with progress("what rounding costs", len(parts), unit="groups") as advance:
            for part in parts:
                harms.append(self._trial.harm(part))
                self._measured.add(_key(part))
                advance(1)
        return harms

    def _options(self, *, keeping: bool) -> list[list[Option]]:
        return [self._estimates.options(name, keeping=keeping) for name in self._names]

    def _chosen(self, limit: int) -> dict[str, str]:
        """The types within a limit that are thought best; such as lose the tune in a tensor only
        where no others fit."""
        items = self._options(keeping=True)
        if sum(min(o.bytes for o in options) for options in items) > limit - self._fixed:
            items = self._options(keeping=False)
        chosen = choose_options(items, limit - self._fixed)
        return {name: option.type for name, option in zip(self._names, chosen, strict=True)}

    def _bytes(self, types: Mapping[str, str]) -> int:
        return self._fixed + sum(stored_size(self._shapes[n], kind) for n, kind in types.items())

    def _mix(self, types: Mapping[str, str], found: float) -> Mix:
        return Mix(
            types=dict(types), bytes=self._bytes(types), divergence=found,
            baseline_bytes=self._bytes(self._baseline), baseline_divergence=self._baseline_harm,
            passes=self._trial.runs,
        )  # fmt: skip


def _key(types: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(types.items()))
