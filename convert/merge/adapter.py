"""A PEFT LoRA adapter as what it does to each weight of its base.

LoRA: W' = W + scale * B A, scale = alpha / r (Hu et al. 2021), or alpha / sqrt(r) for rsLoRA
(Kalajdzievski 2023). DoRA: W' = m * (W + scale * B A) / ||W + scale * B A|| by output row
(Liu et al. 2024). All sums are float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats, Ids
from tuneserve.console import human_bytes
from tuneserve.convert.merge.adapter_config import factor, module_pattern, read_adapter_config
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.memory import main_memory
from tuneserve.safetensors import StoredTensor, stored_tensors

PEFT_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
_BIAS = re.compile(r"(.+)\.lora_B\.bias")
_TOKENS = re.compile(r"(.+?)(?:\.token_adapter)?\.trainable_tokens_delta")
# What PEFT puts around a module that is trained whole, or whose rows are.
_WRAPPERS = re.compile(r"\.(modules_to_save|token_adapter|base_layer)(?=\.)")
_MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.weight)?")


@dataclass(frozen=True)
class LowRank:
    """The change of one weight: `b` [rows, r] times `a` [r, columns], times `scale`.

    `magnitude` [rows] is DoRA's, if it is one.
    """

    a: Floats
    b: Floats
    scale: float
    magnitude: Floats | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.b), self.a.shape[1]

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    def apply(self, values: Floats, start: int, stop: int) -> Floats:
        """Rows [start, stop) of the weight with the change in it."""
        changed = values + np.float32(self.scale) * (self.b[start:stop] @ self.a)
        if self.magnitude is None:
            return changed
        norms = np.linalg.norm(changed, axis=1, keepdims=True)
        result: Floats = self.magnitude[start:stop, None] / norms * changed
        return result


@dataclass(frozen=True)
class TokenRows:
    """Rows of an embedding that were trained by themselves: their numbers [n] and `values`
    [n, columns]."""

    numbers: Ids
    values: Floats

    def apply(self, values: Floats, start: int, stop: int) -> Floats:
        """Rows [start, stop) of the embedding with the trained ones in their places."""
        inside = (self.numbers >= start) & (self.numbers < stop)
        if not inside.any():
            return values
        result = values.copy()
        result[self.numbers[inside] - start] = self.values[inside]
        return result


class Adapter:
    """An adapter directory: `changes`, `replaced`, `biases` (added to the base's) and `tokens`, by
    the base's tensor names.

    `stacked` are the factors of parameters that stack experts, by the module that PEFT put them on:
    which parameter they belong to tells the base's shapes (`MergedCheckpoint`). `one_sided` are
    weights without an adapter in layers whose like have one in others, if the base has them.
    `untrained` are those of `replaced` that are as they were before.
    """

    def __init__(self, directory: Path) -> None:
        """Read it. Raises UsageError for what is missing or of a kind that can't be merged."""
        self.directory = directory
        self.config = read_adapter_config(directory)
        self._files = stored_tensors(_weights_path(directory))
        self.changes: dict[str, LowRank] = {}
        self.stacked: dict[str, tuple[Floats, Floats]] = {}
        self.one_sided: list[str] = []
        self.replaced: dict[str, StoredTensor] = {}
        self.untrained: set[str] = set()
        self.biases: dict[str, Floats] = {}
        self.tokens: dict[str, TokenRows] = {}
        self._sort_tensors()

    def _sort_tensors(self) -> None:
        factors: dict[str, dict[str, Floats]] = {}
        magnitudes: dict[str, Floats] = {}
        biases: dict[str, Floats] = {}
        problems: list[str] = []
        self._check_tensors()
        for key in self._files:
            name = key.removeprefix(PEFT_PREFIX)
            if match := _FACTOR.fullmatch(name):
                module, embedding, side = match.groups()
                values = self._files[key].rows()
                # An embedding's factors are stored the other way round: it looks rows up.
                target = {"A": "B", "B": "A"}[side] if embedding else side
                factors.setdefault(module, {})[target] = values.T if embedding else values
            elif match := _MAGNITUDE.fullmatch(name):
                magnitudes[match.group(1)] = self._files[key].rows().reshape(-1)
            elif match := _BIAS.fullmatch(name):
                biases[match.group(1)] = self._files[key].rows()
            elif match := _TOKENS.fullmatch(name):
                module = match.group(1)
                self.tokens[f"{module}.weight"] = self._token_rows(module, self._files[key])
            elif ".lora_" in name:
                problems.append(f"{key}: unknown kind of adapter tensor")
            else:
                self._add_whole(name, self._files[key])
        for module, sides in factors.items():
            if sides.keys() != {"A", "B"}:
                problems.append(f"{module}: only one of lora_A and lora_B is there")
            elif sides["A"].shape[0] != sides["B"].shape[1]:
                problems.append(f"{module}: lora_A has rank {sides['A'].shape[0]}, "
                                f"lora_B {sides['B'].shape[1]}")  # fmt: skip
            elif self._is_of_parameter(module):
                self.stacked[module] = sides["A"], sides["B"]
            else:
                self.changes[f"{module}.weight"] = LowRank(
                    np.ascontiguousarray(sides["A"]),
                    np.ascontiguousarray(sides["B"]),
                    scale_of(self.config, module, rank=sides["A"].shape[0]),
                    magnitudes.get(module),
                )
        for module in magnitudes:
            rows = factors[module]["B"].shape[0] if "B" in factors.get(module, {}) else 0
            if magnitudes[module].shape != (rows,):
                problems.append(f"{module}: {len(magnitudes[module])} magnitudes for {rows} rows")
        for module, bias in biases.items():
            rank = factors[module]["A"].shape[0] if "A" in factors.get(module, {}) else 0
            if rank:
                scale = np.float32(scale_of(self.config, module, rank=rank))
                self.biases[f"{module}.bias"] = scale * bias
            else:
                problems.append(f"{module}: a bias of lora_B without lora_A")
        self.one_sided = self._expected_elsewhere({plain_module(module) for module in factors})
        if problems:
            raise UsageError(
                "this adapter is damaged", where=str(self.directory), problems=problems
            )

    def _check_tensors(self) -> None:
        """Raise UsageError for tensors that are no matrices where they have to be, before anything
        is read, and TuneserveError for more than fits the memory."""
        problems = [
            f"{key}: has {len(tensor.shape)} dimensions instead of two"
            for key, tensor in self._files.items()
            if (_FACTOR.fullmatch(key) or _TOKENS.fullmatch(key)) and len(tensor.shape) != 2
        ]
        if problems:
            raise UsageError(
                "this adapter is damaged", where=str(self.directory), problems=problems
            )
        size = sum(prod(t.shape) * 4 for key, t in self._files.items() if ".lora_" in key)
        if size > (free := main_memory().available):
            raise TuneserveError(
                f"this adapter takes {human_bytes(size)} of memory, {human_bytes(free)} are free",
                where=str(self.directory),
            )

    def _add_whole(self, name: str, stored: StoredTensor) -> None:
        """A trained whole tensor, or the (resized) base of an adapted embedding. PEFT saves a
        resized table three times: as trained, as it was before, and once more as trained, by the
        base's name, which is what it reads."""
        if ".original_module." in name:
            return
        plain = _WRAPPERS.sub("", name)
        if plain != name and plain in self.replaced:
            return
        self.replaced[plain] = stored
        if ".base_layer." in name:
            self.untrained.add(plain)

    def _is_of_parameter(self, module: str) -> bool:
        """Are the factors of this module those of a parameter (PEFT's `target_parameters`) that is
        no weight of a linear layer? PEFT nests the parameters of a module as its base layers."""
        targets = [str(name) for name in self.config.get("target_parameters") or ()]
        name = plain_module(module)
        return any(
            not parameter.endswith(".weight")
            and f".{name}".endswith(f".{of}" if of else ".experts")
            for parameter in targets
            for of in [parameter.rpartition(".")[0]]
        )

    def _expected_elsewhere(self, modules: set[str]) -> list[str]:
        """The weights of projections without an adapter that other layers have one on: PEFT adapts
        all or none.

        Only those that the configuration targets, in the layers that it names if it names any.
        """
        found: dict[str, dict[int, set[str]]] = {}
        for module in modules:
            if match := re.fullmatch(r"(.*\.layers\.)(\d+)\.(.+)", module):
                layers = found.setdefault(match.group(1), {})
                layers.setdefault(int(match.group(2)), set()).add(match.group(3))
        chosen = self.config.get("layers_to_transform")
        by_layer = {
            f"{before}{number}": layers.get(number, set())
            for before, layers in found.items()
            for number in (
                range(max(layers) + 1) if chosen is None
                else [chosen] if isinstance(chosen, int) else chosen
            )
        }  # fmt: skip
        everywhere = set().union(*by_layer.values()) if by_layer else set()
        return [
            f"{layer}.{name}"
            for layer, names in sorted(by_layer.items())
            for name in sorted(everywhere - names)
            if self._is_targeted(f"{layer}.{name}")
        ]

    def _is_targeted(self, module: str) -> bool:
        """Do `target_modules`, without `exclude_modules`, name this module?"""
        targets = self.config.get("target_modules")
        if _is_named(module, self.config.get("exclude_modules")):
            return False
        everything = targets is None or targets == "all-linear"
        return everything or _is_named(module, targets) or self._is_of_parameter(module)

    def _token_rows(self, module: str, stored: StoredTensor) -> TokenRows:
        """The rows of `trainable_token_indices`. Raises UsageError if they are not as many."""
        named = self.config.get("trainable_token_indices") or []
        leaf = module.rpartition(".")[2]
        if isinstance(named, dict):
            # The output that is tied to an embedding has its rows.
            tied: list[int] = next(iter(named.values()), []) if leaf == "lm_head" else []
            numbers = named.get(leaf) or tied
        else:
            numbers = named
        if stored.shape[:1] != (len(numbers),):
            raise UsageError(
                f"has {stored.shape[0]} trained tokens, adapter_config.json names {len(numbers)}",
                where=f"{stored.path}: {module}",
            )
        return TokenRows(np.asarray(numbers, dtype=np.int64), stored.rows())


def _is_named(module: str, names: Any) -> bool:
    """Is a module among `names` as PEFT reads them: a regular expression for all of it, or a list
    of its last parts?"""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def plain_module(module: str) -> str:
    """The module's name without what PEFT puts into it where it nests layers."""
    return module.replace(".base_layer", "")


def scale_of(config: Mapping[str, Any], module: str, *, rank: int) -> float:
    """The factor of B A for a module: alpha / r, with PEFT's rank and alpha patterns.

    Raises UsageError if the configuration's rank is not the tensors'.
    """
    expected = _by_pattern(config.get("rank_pattern") or {}, module, config["r"])
    if expected != rank:
        raise UsageError(f"rank is {rank}, but the configuration says {expected}", where=module)
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return factor(config, rank, alpha)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if module_pattern(pattern).match(module):
            return value
    return default


def _weights_path(directory: Path) -> Path:
    path = directory / "adapter_model.safetensors"
    if not path.is_file():
        raise UsageError(
            "no such file",
            where=str(path),
            hint="An adapter is the directory that training wrote: adapter_config.json and "
            "adapter_model.safetensors.",
        )
    return path
