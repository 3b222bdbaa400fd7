"""transformers' own model with weights that are read when they are multiplied with.

The model is built without weights. Each of its layers is then replaced by one that reads its rows
slab by slab, multiplies and forgets them, so that an 8B model needs no more memory than a small
one. Several variants (the base, the base with its adapter, the merged weights) go through the
model stacked in the batch dimension, one after the other (variant-major). accelerate's disk
offload runs one set of weights at a time; here each input is computed for all variants at once.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.checkpoint import merged_config
from tuneserve.convert.slabs import row_spans
from tuneserve.convert.verify.weights import TrainerWeights, Weights
from tuneserve.errors import TuneserveError


@dataclass(frozen=True)
class Variant:
    """Weights that go through the model; `adapted`: with PEFT's layers on them."""

    weights: Weights
    adapted: bool = False


class StreamedLinear(nn.Linear):  # type: ignore[misc, unused-ignore]
    """nn.Linear whose weight stays where it is stored."""

    def __init__(
        self, like: nn.Linear, weights: Weights, name: str, pool: ThreadPoolExecutor
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self._weights, self._name, self._pool = weights, f"{name}.weight", pool
        shape = weights.shape(self._name)
        if shape[1] != like.in_features:
            raise TuneserveError(f"'{self._name}' has shape {list(shape)}")
        self.out_features = shape[0]
        bias = _parameter(like.bias, weights, f"{name}.bias")
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override, unused-ignore]
        """The whole matrix (DoRA's norms need it)."""
        return torch.from_numpy(self._weights.rows(self._name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.in_features)
        result = torch.empty((flat.shape[0], self.out_features), dtype=torch.float32)

        def multiply(span: tuple[int, int]) -> None:
            # Gradients are switched off by thread.
            with torch.inference_mode():
                rows = torch.from_numpy(self._weights.rows(self._name, *span))
                result[:, slice(*span)] = flat @ rows.T

        list(self._pool.map(multiply, row_spans((self.out_features, self.in_features))))
        if self.bias is not None:
            result += self.bias
        return result.reshape(*x.shape[:-1], self.out_features)


class StreamedEmbedding(nn.Embedding):  # type: ignore[misc, unused-ignore]
    """nn.Embedding that reads the rows of the tokens it is asked for."""

    def __init__(self, like: nn.Embedding, weights: Weights, name: str) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = like.num_embeddings, like.embedding_dim
        self.padding_idx = self.max_norm = None
        self.norm_type, self.scale_grad_by_freq, self.sparse = 2.0, False, False
        self._weights, self._name = weights, f"{name}.weight"
        # Gemma multiplies what it looks up.
        self._scale = getattr(like, "embed_scale", None)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override, unused-ignore]
        return torch.from_numpy(self._weights.rows(self._name))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        unique, places = torch.unique(ids, return_inverse=True)
        rows = [self._weights.rows(self._name, int(i), int(i) + 1) for i in unique]
        found = torch.from_numpy(np.concatenate(rows))[places]
        return found if self._scale is None else found * self._scale


class StackedVariants(nn.Module):  # type: ignore[misc, unused-ignore]
    """One layer of each variant; each gets its part of the batch."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        parts = x.chunk(len(self.layers))
        return torch.cat([f(p, *rest, **more) for f, p in zip(self.layers, parts, strict=True)])


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
        model = _empty_model(config)
        if adapter is not None:
            from peft import PeftModel

            # PEFT's layers go into `model` itself.
            PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage=True, torch_device="cpu")
        self._install(model, "")
        self._model = model.eval()

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[list[Floats]]:
        """Of each variant, of each sequence: float32 [tokens, vocabulary].

        All go through the model at once, padded at the end: a causal model never looks ahead.
        To be called once: the threads end with it.
        """
        longest = max(len(ids) for ids in sequences)
        padded = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in sequences]
        rows = torch.tensor(padded * len(self._variants))
        # The slabs are spread over the pool's threads; each computes alone.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with self._pool, torch.inference_mode():
                found = self._model(input_ids=rows, use_cache=False).logits.float().numpy()
        finally:
            torch.set_num_threads(before)
        count = len(sequences)
        return [
            [found[v * count + n][: len(ids)] for n, ids in enumerate(sequences)]
            for v in range(len(self._variants))
        ]

    def _install(self, parent: nn.Module, path: str) -> None:
        for child_name, child in list(parent.named_children()):
            name = f"{path}{child_name}"
            plain = _without_adapter(child)
            if plain is None and not list(child.parameters(recurse=False)):
                self._install(child, f"{name}.")
                continue
            layers = [self._layer(child, plain, variant, name) for variant in self._variants]
            setattr(parent, child_name, StackedVariants(layers))

    def _layer(
        self, child: nn.Module, plain: nn.Module | None, variant: Variant, name: str
    ) -> nn.Module:
        """A variant's layer with streamed weights; of an adapted one PEFT's own, over these."""
        streamed = self._streamed(plain or child, variant, name)
        if not variant.adapted or plain is None:
            return streamed
        for inner in ("base_layer", "original_module"):
            if inner in child._modules:
                child._modules[inner] = streamed
        return child

    def _streamed(self, module: nn.Module, variant: Variant, name: str) -> nn.Module:
        """Of an adapted variant the parameters that came with the adapter stay."""
        weights = variant.weights

        def stays(parameter: torch.Tensor | None) -> bool:
            return variant.adapted and parameter is not None and any(parameter.stride())

        if isinstance(module, nn.Linear) and not stays(module.weight):
            streamed = StreamedLinear(module, weights, name, self._pool)
            if stays(module.bias):
                streamed.bias = module.bias
            return streamed
        if isinstance(module, nn.Embedding) and not stays(module.weight):
            return StreamedEmbedding(module, weights, name)
        if list(module.children()):
            raise TuneserveError(f"'{name}' is no layer that can be verified")
        # A copy of a small layer (a norm) with its parameters in it.
        result = copy.copy(module)
        result._parameters = dict(module._parameters)
        for key, parameter in module._parameters.items():
            if not stays(parameter):
                result._parameters[key] = _parameter(parameter, weights, f"{name}.{key}")
        return result


def _parameter(like: torch.Tensor | None, weights: Weights, name: str) -> nn.Parameter | None:
    if like is None:
        return None
    return nn.Parameter(torch.from_numpy(np.array(weights.rows(name))), requires_grad=False)


def _without_adapter(module: nn.Module) -> nn.Module | None:
    """The layer that PEFT has wrapped; None if `module` is no layer of PEFT."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, BaseTunerLayer):
        base: nn.Module = module.get_base_layer()
        return base
    if isinstance(module, AuxiliaryTrainingWrapper):
        original: nn.Module = module.original_module
        return original
    return None


def _empty_model(config: Any) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
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


def reference_logits(
    tuned: GGUFModel,
    adapter: Path,
    sequences: Sequence[Sequence[int]],
    *,
    threads: int,
    base_weights: Weights | None = None,
    merged_weights: Weights | None = None,
) -> list[list[Floats]]:
    """Logits [tokens, vocabulary] of each sequence, of three models side by side: the base, the
    base with its adapter, the merged weights. Each weight is read when it is needed; the base's
    and the merged ones by the objects given, if they are to see what is read."""
    # Notes of these libraries to their own developers.
    for name in ("torch.utils._pytree", "bitsandbytes", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)
    checkpoint = tuned.checkpoint
    trainer = base_weights or TrainerWeights(checkpoint.directory, tied=checkpoint.tied)
    merged = merged_weights or checkpoint
    variants = [Variant(trainer), Variant(trainer, adapted=True), Variant(merged)]
    config = transformers_config(tuned)
    return StreamedModel(config, variants, adapter=adapter, threads=threads).logits(sequences)


def transformers_config(model: GGUFModel) -> Any:
    """The configuration of the merged checkpoint."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**merged_config(model.checkpoint))
