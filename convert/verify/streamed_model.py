"""transformers' own model with weights that are read when they are multiplied with.

The model is built without weights. Each of its layers is then replaced by one that reads its rows
slab by slab, so that an 8B model needs no more memory than a small one. Several variants (the base,
the base with its adapter, the merged weights) go through the model stacked in the batch dimension,
one after the other (variant-major). accelerate's disk offload runs one set of weights at a time;
here each input is computed for all variants at once, and what two of them share is read once. A GPU
multiplies, where there is one; weights pass through it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tuneserve.arrays import Floats, Ids
from tuneserve.console import progress
from tuneserve.convert.verify.bare_model import (
    add_adapter,
    came_with_adapter,
    empty_model,
    parameter_wrappers,
    without_adapter,
)
from tuneserve.convert.verify.streamed_layers import (
    AtPositions,
    Computed,
    SharedLinear,
    StackedVariants,
    StreamedEmbedding,
    StreamedLinear,
    StreamedStack,
    as_parameter,
)
from tuneserve.convert.verify.weights import Weights

# GPU memory that the reference takes at most: logits, and the rows in hand.
GPU_BYTES = 3 * 1024**3

_Linear = TypeVar("_Linear", bound=StreamedLinear)


@dataclass(frozen=True)
class Variant:
    """Weights that go through the model; `adapted`: with PEFT's layers on them."""

    weights: Weights
    adapted: bool = False


class StreamedModel:
    """A transformers causal language model over variants of its weights."""

    def __init__(
        self,
        config: Any,
        variants: Sequence[Variant],
        *,
        adapter: Path | None = None,
        threads: int,
    ) -> None:
        """`config`: transformers' configuration; `adapter`: the directory that PEFT loads."""
        self._variants = variants
        self._pool = ThreadPoolExecutor(threads)
        self._device = reference_device()
        model = empty_model(config)
        if adapter is not None:
            add_adapter(model, adapter)
            model.float()  # PEFT keeps whole layers that an adapter brings in its file's type
        # The first list: a mixture's experts are lists too, inside of a layer, and so are variants.
        lists = (part for part in model.modules() if isinstance(part, nn.ModuleList))
        self._layers = list(next(lists, ()))
        self._install(model, "")
        self._model = model.eval().to(self._device)

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[list[Floats]]:
        """Of each variant, of each sequence: float32 [tokens, vocabulary]."""
        return self.logits_at(sequences, [np.arange(len(ids)) for ids in sequences])

    def _forward(self, sequences: Sequence[Sequence[int]]) -> Floats:
        """What the model makes of the padded sequences, of each variant."""
        longest = max(len(ids) for ids in sequences)
        padded = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in sequences]
        rows = torch.tensor(padded * len(self._variants), device=self._device)
        # The slabs are spread over the pool's threads; each computes alone.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with self._pool, torch.inference_mode(), self._layers_told():
                made = self._model(input_ids=rows, use_cache=False).logits
                found: Floats = made.float().cpu().numpy()
        finally:
            torch.set_num_threads(before)
        if self._device.type == "cuda":
            # llama.cpp computes what follows; what PyTorch keeps for itself is lost to it.
            torch.cuda.empty_cache()
        return found

    @contextmanager
    def _layers_told(self) -> Iterator[None]:
        """Show how many of the decoder's layers are computed: of a large model that takes
        minutes."""
        if not self._layers:
            yield
            return
        with progress("verify: the trainer's layers", len(self._layers), unit="layers") as advance:
            hooks = [layer.register_forward_hook(lambda *_: advance(1)) for layer in self._layers]
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    def logits_at(
        self, sequences: Sequence[Sequence[int]], positions: Sequence[Ids]
    ) -> list[list[Floats]]:
        """As `logits`, but of each sequence the rows `positions` alone: [positions, vocabulary].
        The others are never made.

        All go through the model at once, padded at the end: a causal model never looks ahead.
        To be called once: the threads end with it.
        """
        longest = max(len(ids) for ids in sequences)
        head = self._model.get_output_embeddings()
        places = np.concatenate([n * longest + at for n, at in enumerate(positions)])
        # One row for each variant, which is what StackedVariants takes apart.
        self._model.set_output_embeddings(AtPositions(head, places, len(self._variants)))
        found = self._forward(sequences)
        ends = np.cumsum([len(at) for at in positions])[:-1]
        return [np.split(rows, ends) for rows in found]

    def _install(self, parent: nn.Module, path: str) -> None:
        for child_name, child in list(parent.named_children()):
            name = f"{path}{child_name}"
            plain = without_adapter(child)
            if plain is None and not _is_whole(child):
                self._install(child, f"{name}.")
                for key in set(child._buffers) - child._non_persistent_buffers_set:
                    weights = self._variants[0].weights
                    child._buffers[key] = as_parameter(
                        child._buffers[key], weights, f"{name}.{key}"
                    )
                continue
            setattr(parent, child_name, self._stacked(child, plain, name))

    def _stacked(self, child: nn.Module, plain: nn.Module | None, name: str) -> StackedVariants:
        """The variants' layers; two variants of the same weights, one behind the other, share what
        is read."""
        layers: list[nn.Module] = []
        counts: list[int] = []
        before: Variant | None = None
        adapted = any(without_adapter(module) for module in child.modules()) or any(
            came_with_adapter(parameter) for parameter in child.parameters(recurse=False)
        )
        for variant in self._variants:
            same = before is not None and before.weights is variant.weights
            before = variant
            if same and plain is None and not adapted:
                counts[-1] += 1
                continue
            layer = self._layer(child, plain, variant, name)
            inner = getattr(layer, "base_layer", None)
            base = layers[-1] if layers else None
            if same and isinstance(base, StreamedLinear) and isinstance(inner, StreamedLinear):
                under = self._linear(Computed, plain, variant.weights, name)
                layer._modules["base_layer"] = under
                layers[-1], counts[-1] = SharedLinear(base, layer, under), counts[-1] + 1
            else:
                layers.append(layer)
                counts.append(1)
        return StackedVariants(layers, counts)

    def _linear(self, kind: type[_Linear], like: Any, weights: Weights, name: str) -> _Linear:
        return kind(like, weights, name, self._pool, self._device)

    def _layer(
        self, child: nn.Module, plain: nn.Module | None, variant: Variant, name: str
    ) -> nn.Module:
        """A variant's layer with streamed weights; of an adapted one PEFT's own, over these."""
        streamed = self._streamed(plain or child, variant, name)
        if not variant.adapted or plain is None:
            return streamed
        wrappers = parameter_wrappers(child)
        for wrapper in wrappers:
            # PEFT adds its change to the whole parameter, here it is added to what is read of it.
            stack = getattr(streamed, wrapper.parameter_name)
            if isinstance(stack, StreamedStack):
                stack.factors = wrapper.get_delta_factors(wrapper.active_adapters[0])
        if any(isinstance(value, StreamedStack) for value in vars(streamed).values()):
            return streamed
        for inner in ("base_layer", "original_module"):
            if inner in child._modules:
                child._modules[inner] = streamed
        # The rows of trained tokens are put over the embedding by a layer of their own.
        if (tokens := child._modules.get("token_adapter")) is not None:
            tokens._modules["base_layer"] = streamed
        return child

    def _streamed(self, module: nn.Module, variant: Variant, name: str) -> nn.Module:
        """Of an adapted variant the parameters that came with the adapter stay."""
        weights = variant.weights

        def stays(parameter: torch.Tensor | None) -> bool:
            return variant.adapted and parameter is not None and came_with_adapter(parameter)

        # One that was put in for another variant, or a plain one: a router may compute more.
        plain = isinstance(module, StreamedLinear) or type(module).forward is nn.Linear.forward
        if isinstance(module, nn.Linear) and plain and not stays(module.weight):
            streamed = self._linear(StreamedLinear, module, weights, name)
            if stays(module.bias):
                streamed.bias = module.bias
            return streamed
        if isinstance(module, nn.Embedding) and not stays(module.weight):
            return StreamedEmbedding(module, weights, name)
        # A copy of a small layer (a norm) with its parameters in it, but for stacked experts; of a
        # layer with parts with copies of these.
        result = copy.copy(module)
        result._modules = {
            key: part and self._layer(part, without_adapter(part), variant, f"{name}.{key}")
            for key, part in module._modules.items()
        }
        result._parameters, result._buffers = dict(module._parameters), dict(module._buffers)
        for key, parameter in module._parameters.items():
            if parameter is None or stays(parameter):
                continue
            if weights.expert_parameter(f"{name}.{key}") is not None:
                del result._parameters[key]
                shape = tuple(parameter.shape)
                stack = StreamedStack(weights, f"{name}.{key}", shape, self._device)
                setattr(result, key, stack)
            else:
                result._parameters[key] = as_parameter(parameter, weights, f"{name}.{key}")
        for key, buffer in module._buffers.items():
            if key not in module._non_persistent_buffers_set:
                result._buffers[key] = as_parameter(buffer, weights, f"{name}.{key}")
        return result


def _is_whole(module: nn.Module) -> bool:
    """Does this layer compute with weights itself, be it with those of a convolution in it?"""
    inside = (isinstance(child, nn.Conv1d) for child in module.children())
    # Llama 4 gives its experts all tokens once for each expert, not those of each variant together.
    reordering = type(module).__name__ == "Llama4TextMoe"
    return reordering or any(inside) or bool(list(module.parameters(recurse=False)))


def reference_device() -> torch.device:
    """Where the reference is computed: on the GPU, if it has room."""
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] >= GPU_BYTES:
        return torch.device("cuda")
    return torch.device("cpu")
