"""transformers' model without weights, and PEFT's layers on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tuneserve.convert.merge.adapter import PEFT_PREFIX, plain_module
from tuneserve.safetensors import stored_tensors
from tuneserve.text_model import text_name

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def empty_model(config: Any) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        # Experts one after the other: other ways need all their weights at once.
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, experts_implementation="eager"
        )
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = _placeholder(parameter.shape)
    return model


def _placeholder(shape: torch.Size) -> nn.Parameter:
    """A parameter of this shape that takes no memory: all its elements share one value.

    Not on the "meta" device: PEFT puts an adapter on the device of the layer, where it would be
    lost.
    """
    return nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)


def add_adapter(model: nn.Module, directory: Path) -> None:
    """Put PEFT's layers into `model`; one trained in a model with eyes and ears names its modules
    by where they hang there."""
    from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    names = [key.removeprefix(PEFT_PREFIX) for key in stored_tensors(directory / ADAPTER_WEIGHTS)]
    moved = {name: text_name(name) or name for name in names}
    if all(name == short for name, short in moved.items()) or not hasattr(model, "model"):
        PeftModel.from_pretrained(model, directory, low_cpu_mem_usage=True, torch_device="cpu")
        return
    config = LoraConfig.from_pretrained(directory)
    modules = {short.partition(".lora_")[0] for short in moved.values() if ".lora_" in short}
    # Stacked experts are parameters: they are found by `target_parameters`.
    owners = tuple(name.rpartition(".")[0] for name in config.target_parameters or ())
    modules = {name for name in modules if not (owners and plain_module(name).endswith(owners))}
    config.target_modules, config.exclude_modules = modules, None
    config.base_model_name_or_path = None  # this model has no name: PEFT would warn
    peft = get_peft_model(model, config, low_cpu_mem_usage=True)
    weights = load_file(directory / ADAPTER_WEIGHTS)
    set_peft_model_state_dict(
        peft,
        {f"{PEFT_PREFIX}{short}": weights[f"{PEFT_PREFIX}{name}"] for name, short in moved.items()},
        low_cpu_mem_usage=True,
    )


def parameter_wrappers(module: nn.Module) -> list[Any]:
    """PEFT's layers on parameters of one module, which are nested."""
    from peft.tuners.lora.layer import ParamWrapper

    found = []
    inner: Any = module
    while isinstance(inner, ParamWrapper):
        found.append(inner)
        inner = inner.base_layer
    return found


def without_adapter(module: nn.Module) -> nn.Module | None:
    """The layer that PEFT has wrapped; None if `module` is no layer of PEFT."""
    if "peft" not in sys.modules:  # whose import takes seconds: no model here has an adapter
        return None
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, BaseTunerLayer):
        base: nn.Module = module.get_base_layer()
        return base
    if isinstance(module, AuxiliaryTrainingWrapper):
        original: nn.Module = module.original_module
        return original
    return None


def came_with_adapter(parameter: torch.Tensor) -> bool:
    """Did PEFT put this parameter in the place of a placeholder?"""
    return any(parameter.stride())
