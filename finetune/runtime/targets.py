"""The modules of a base that settings name: which get an adapter, which are trained whole.

Names and shapes come from the checkpoint's headers, so that `tuneserve plan` refuses what training
refuses, without torch; of a config.json alone they come from its architecture.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneserve.base import BaseConfig
from tuneserve.errors import UsageError
from tuneserve.files import read_json
from tuneserve.finetune.runtime.config_modules import tensor_dimensions
from tuneserve.safetensors import checkpoint_tensors
from tuneserve.settings import ALL_LINEAR, ALL_PROJECTIONS, TrainSettings
from tuneserve.text_model import is_shell, text_config, text_name

# The input embedding and the output layer, as all bases that can be trained call them.
_TABLES = ("embed_tokens", "lm_head")
_SUFFIX = ".weight"
# A tensor of experts: of each expert its own, or one of them all.
_EXPERT = re.compile(r"\.experts\.|\.block_sparse_moe\.(in|out)put_linear\.")
_ROUTERS = ("gate", "router")
# What transformers calls the parameters, and the matrices in the first, by which Unsloth finds it.
_STACKS = ("gate_up_proj", "down_proj")
_IN_STACKS = ("gate_proj", "up_proj")


def with_targets(checkpoint: Path, settings: TrainSettings) -> TrainSettings:
    """The settings with `all-linear` put as this base's own layers. Reads no weights.

    Raises UsageError for a name in target_modules that is none of its linear layers, and for one in
    modules_to_save that can't be trained whole.
    """
    path = checkpoint / "config.json"
    config = read_json(path) if path.is_file() else {}
    check_last_layers(config, settings)
    inside = is_shell(config)
    stored = checkpoint_tensors(checkpoint)
    dimensions = {name: len(tensor.shape) for name, tensor in stored.items()}
    return _checked(_Modules(dimensions, inside=inside), settings)


def planned_targets(base: BaseConfig, settings: TrainSettings) -> tuple[TrainSettings, list[str]]:
    """The same for a base that may have no weights here, and what could not be checked then.

    Where config.json does not say either what modules there are, `all-linear` is planned as the
    seven projections.
    """
    if base.weights is not None:
        return with_targets(base.weights, settings), []
    check_last_layers(base.config, settings)
    dimensions = tensor_dimensions(base.config)
    if dimensions is not None:
        return _checked(_Modules(dimensions), settings), []
    targets: list[str] = []
    for name in settings.target_modules:
        targets += ALL_PROJECTIONS if name.lower() == ALL_LINEAR else [name]
    unchecked = (
        f"note: {base.where}: what modules this architecture has is not known without its weights: "
        "target_modules and modules_to_save are not checked"
    )
    found = settings.model_copy(update={"target_modules": tuple(dict.fromkeys(targets))})
    return found, [unchecked]


def check_last_layers(config: Mapping[str, Any], settings: TrainSettings) -> None:
    """Raise UsageError for more layers to train than the base with this config.json has."""
    layers = text_config(config).get("num_hidden_layers")
    if isinstance(layers, int) and settings.last_layers > layers:
        raise UsageError(f"this base has {layers} layers", where="train.last_layers")


def _checked(modules: _Modules, settings: TrainSettings) -> TrainSettings:
    targets: list[str] = []
    for name in settings.target_modules:
        if name.lower() == ALL_LINEAR:
            targets += modules.linear_names()
        else:
            modules.check_linear(name)
            targets.append(name)
    for name in settings.modules_to_save:
        modules.check_whole(name)
    modules.check_experts(targets, settings)
    return settings.model_copy(update={"target_modules": tuple(dict.fromkeys(targets))})


class _Modules:
    """The modules of a checkpoint that have weights, by what kind they are.

    `dimensions`: how many each of its tensors has; `inside`: they are those of a model with eyes
    and ears, whose text model is trained.
    """

    def __init__(self, dimensions: Mapping[str, int], *, inside: bool = False) -> None:
        self.linear: list[str] = []
        self.norms: list[str] = []
        self.others: list[str] = []
        self.has_experts = False
        for key, count in dimensions.items():
            if inside and text_name(key) is None:
                continue
            name = key.removesuffix(_SUFFIX)
            if _EXPERT.search(key):  # loaded as parameters that stack all experts of a layer
                self.has_experts = True
                continue
            if name == key:  # a bias, or what 4-bit weights need beside them
                continue
            leaf = _leaf(name)
            # Packed 4-bit weights are one column of bytes.
            if leaf in _ROUTERS or ".router." in name:
                self.others.append(name)
            elif count == 2 and leaf not in _TABLES and "embed" not in leaf:
                self.linear.append(name)
            elif "norm" in leaf:
                self.norms.append(name)
            else:
                self.others.append(name)

    def linear_names(self) -> list[str]:
        """The linear layers' last names, each once, and those of stacked experts. The output layer
        is none of them."""
        experts = _STACKS if self.has_experts else ()
        return list(dict.fromkeys([*map(_leaf, self.linear), *experts]))

    def check_experts(self, targets: Sequence[str], settings: TrainSettings) -> None:
        """Raise UsageError if experts are to be adapted in a way that PEFT has not for them."""
        named = [name for name in targets if name in (*_STACKS, *_IN_STACKS)]
        if not self.has_experts or not named:
            return
        for field, is_set in (("dropout", settings.dropout > 0), ("use_dora", settings.use_dora)):
            if is_set:
                raise UsageError(
                    f"experts can't be trained with {field} (target_modules: {_quoted(named)})",
                    where=f"train.{field}",
                    hint="Switch it off, or take these names out.",
                )

    def check_linear(self, name: str) -> None:
        """Raise UsageError if `name` is not that of linear layers (PEFT goes by the end of a
        path)."""
        where = "train.target_modules"
        if _leaf(name) in _TABLES:
            # Unsloth would train the whole table without a word.
            raise UsageError(
                f"'{name}' can't have an adapter: it is trained whole or not at all",
                where=where,
                hint=f'Take it out, or train the whole table: modules_to_save = ["{name}"].',
            )
        if self.has_experts and name in (*_STACKS, *_IN_STACKS):
            return
        everything = [*self.linear, *self.norms, *self.others]
        found = [module for module in everything if _ends(module, name)]
        if found and all(module in self.linear for module in found):
            return
        inside = [module for module in self.linear if f".{name}." in f".{module}"]
        if found:
            problem, hint = f"'{name}' is no linear layer", self._linear_hint()
        elif inside:
            parts = list(dict.fromkeys(map(_leaf, inside)))
            problem = f"'{name}' is no linear layer itself"
            hint = f"Name the layers in it: {_quoted(parts)}."
        else:
            problem = f"this base model has no module '{name}'"
            hint = _nearest(name, [*self.linear_names(), ALL_LINEAR]) + self._linear_hint()
        raise UsageError(problem, where=where, hint=hint)

    def check_whole(self, name: str) -> None:
        """Raise UsageError if modules of this name can't be trained whole (PEFT goes by the end of
        a path, be it in the middle of a name)."""
        if _leaf(name) in _TABLES:  # a tied base has the output layer without weights of its own
            return
        everything = [*self.linear, *self.norms, *self.others]
        found = [module for module in everything if module.endswith(name)] if name else []
        if found and all(module in self.norms for module in found):
            return
        known = any(f".{name}." in f".{module}." for module in everything)
        raise UsageError(
            f"'{name}' can't be trained whole"
            if found or known
            else f"this base model has no module '{name}'",
            where="train.modules_to_save",
            hint="Trained whole are embed_tokens, lm_head and norms "
            f"({', '.join(dict.fromkeys(map(_leaf, self.norms)))}); linear layers get an adapter "
            "by target_modules.",
        )

    def _linear_hint(self) -> str:
        return (
            f"Linear layers here: {', '.join(self.linear_names())}; '{ALL_LINEAR}' means them all."
        )


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _ends(module: str, name: str) -> bool:
    return f".{module}".endswith(f".{name}")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _nearest(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"Did you mean '{found[0]}'? " if found else ""
