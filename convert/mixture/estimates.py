"""What each type of each tensor costs, in KL divergence of the answers: predicted from what was
measured.

Rounding does two things. It adds noise, whose harm is as its squared error, and adds up over
tensors; how much harm an error does is measured for each group, and for the types that are chosen
in it again. And where the base lies on a type's grid it takes the tune's change back, in all
tensors towards the same model, the base: with x_t the share lost of tensor t and w_t its part in
the tune (sum 1), the harm goes as (sum of w_t x_t)^2, and is at most the sum of w_t x_t^2, which is
what is counted here. Its scale is measured too: with half of all changes taken back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

from tuneserve.convert.gguf.writer import stored_size
from tuneserve.convert.mixture.knapsack import Option
from tuneserve.convert.mixture.roundings import TensorRoundings

# A type that loses more of a tensor's change is no option for it.
LOST = 0.5
# Of a measured harm, the noise's part at least: what is lost of the tune is an estimate.
LEAST_NOISE = 0.1
# What groups are tried in: of the first two types that their rows allow, the one that rounds more.
# The other may be the one on whose grid the base lies.
PROBES = ("Q4_K", "IQ4_XS", "IQ4_NL", "Q4_0")


class Estimates:
    """`half_lost`: KL divergence (nats) of the answers with half of all changes taken back."""

    def __init__(
        self,
        groups: Sequence[Sequence[str]],
        roundings: Mapping[str, TensorRoundings],
        shapes: Mapping[str, tuple[int, ...]],
        half_lost: float,
    ) -> None:
        self._groups, self._roundings, self._shapes = groups, roundings, shapes
        self._all_lost = half_lost / 0.25
        self._factors: list[dict[str, float]] = [{} for _ in groups]
        self._parts: dict[str, float] = {}
        self._group_of = {name: number for number, group in enumerate(groups) for name in group}

    def probes(self, number: int) -> dict[str, str]:
        """The types that a group is tried in first."""
        return {name: self._probe(name) for name in self._groups[number]}

    def _probe(self, name: str) -> str:
        types = self._roundings[name].types
        coarse = [kind for kind in PROBES if kind in types][:2] or list(types)[:1]
        return max(coarse, key=lambda kind: types[kind].error)

    def start(self, harms: Sequence[float]) -> None:
        """Take over what each group's probes cost."""
        for number, harm in enumerate(harms):
            probes = self.probes(number)
            error = sum(self._roundings[name].types[kind].error for name, kind in probes.items())
            every = {kind for name in probes for kind in self._roundings[name].types}
            self._factors[number] = dict.fromkeys(every, harm / error if error else 0.0)
        self._share_out()
        for number, harm in enumerate(harms):
            ratio = self._ratio(number, self.probes(number), harm)
            self._factors[number] = {k: ratio * f for k, f in self._factors[number].items()}
        self._share_out()

    def correct(self, number: int, types: Mapping[str, str], harm: float) -> None:
        """Take over what a group costs in these types."""
        ratio = self._ratio(number, types, harm)
        for kind in set(types.values()):
            self._factors[number][kind] *= ratio

    def options(self, name: str, *, keeping: bool) -> list[Option]:
        """The types of a tensor; `keeping`: only those that keep its change, if there are any."""
        types = self._roundings[name].types
        kinds = [kind for kind in types if types[kind].kept >= 1 - LOST] if keeping else []
        return [
            Option(kind, stored_size(self._shapes[name], kind), self._harm(name, kind))
            for kind in kinds or types
        ]

    def _harm(self, name: str, kind: str) -> float:
        lost = 1 - self._roundings[name].types[kind].kept
        return self._noise(name, kind) + self._all_lost * self._parts[name] * lost**2

    def _noise(self, name: str, kind: str) -> float:
        factor = self._factors[self._group_of[name]][kind]
        return factor * self._roundings[name].types[kind].error

    def _ratio(self, number: int, types: Mapping[str, str], harm: float) -> float:
        """What the noise of a group's types does, relative to what was thought."""
        lost = sum(
            self._parts[name] * (1 - self._roundings[name].types[kind].kept)
            for name, kind in types.items()
        )
        noise = sum(self._noise(name, kind) for name, kind in types.items())
        found = max(harm - self._all_lost * lost**2, LEAST_NOISE * harm)
        return found / noise if noise else 1.0

    def _share_out(self) -> None:
        """The tensors' parts in the tune: as the noise of their change's size would move answers,
        which the divergence goes with the square of."""
        moved = {
            name: sqrt(max(self._factors[number].values()) * self._roundings[name].change)
            for name, number in self._group_of.items()
        }
        total = sum(moved.values())
        self._parts = {name: part / total if total else 0.0 for name, part in moved.items()}
