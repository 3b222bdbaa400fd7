"""transformers' own model with weights that are read when they are multiplied with.

The model is built without weights. Each of its layers is then replaced by one that reads its rows
slab by slab, multiplies and forgets them, so that an 8B model needs no more memory than a small
one. Several variants (the base, the base with its adapter, the merged weights) go through the
model stacked in the batch dimension, one after the other (variant-major). accelerate's disk
offload runs one set of weights at a time; here each input is computed for all variants at once, and
what two of them share is read once. A GPU multiplies, where there is one; weights pass through it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tuneserve.arrays import Floats, Ids
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.adapter import PEFT_PREFIX, plain_module
from tuneserve.convert.merge.checkpoint import merged_config
from tuneserve.convert.slabs import row_spans
from tuneserve.convert.verify.weights import TrainerWeights, Weights
from tuneserve.errors import TuneserveError
from tuneserve.safetensors import stored_tensors
from tuneserve.text_model import plain_config, text_name

ADAPTER_WEIGHTS = "adapter_model.safetensors"

# GPU memory that the reference takes at most: logits, and the rows in hand.
GPU_BYTES = 3 * 1024**3


@dataclass(frozen=True)
class Variant:
    """Weights that go through the model; `adapted`: with PEFT's layers on them."""

    weights: Weights
    adapted: bool = False


class StreamedLinear(nn.Linear):  # type: ignore[misc, unused-ignore]
    """nn.Linear whose weight stays where it is stored."""

    def __init__(
        self,
        like: nn.Linear,
        weights: Weights,
        name: str,
        pool: ThreadPoolExecutor,
        device: torch.device,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self._weights, self._name, self._pool = weights, f"{name}.weight", pool
        self._device = device
        shape = weights.shape(self._name)
        if shape[1] != like.in_features:
            raise TuneserveError(f"'{self._name}' has shape {list(shape)}")
        self.out_features = shape[0]
        bias = _parameter(like.bias, weights, f"{name}.bias")
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override, unused-ignore]
        """The whole matrix (DoRA's norms need it)."""
        return torch.from_numpy(self._weights.rows(self._name)).to(self._device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.in_features)
        result = flat.new_empty((flat.shape[0], self.out_features))

        def multiply(span: tuple[int, int]) -> None:
            # Gradients are switched off by thread.
            with torch.inference_mode():
                rows = torch.from_numpy(self._weights.rows(self._name, *span)).to(self._device)
                result[:, slice(*span)] = flat @ rows.T

        list(self._pool.map(multiply, row_spans((self.out_features, self.in_features))))
        if self.bias is not None:
            result += self.bias
        return result.reshape(*x.shape[:-1], self.out_features)


_Linear = TypeVar("_Linear", bound=StreamedLinear)


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
        found = torch.from_numpy(np.concatenate(rows)).to(ids.device)[places]
        return found if self._scale is None else found * _on(self._scale, ids.device)


class _Computed(StreamedLinear):
    """A layer whose result is at hand, for PEFT's layer on it to add to."""

    result: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.result


class SharedLinear(nn.Module):  # type: ignore[misc, unused-ignore]
    """A base's layer and PEFT's layer on the same weights, which are read once for both."""

    def __init__(self, base: StreamedLinear, adapted: nn.Module, under: _Computed) -> None:
        super().__init__()
        self.base, self.adapted, self.under = base, adapted, under

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain, self.under.result = self.base(x).chunk(2)
        return torch.cat([plain, self.adapted(x.chunk(2)[1])])


class StackedVariants(nn.Module):  # type: ignore[misc, unused-ignore]
    """The layers of the variants, each for the next `counts` of them; each gets its part of the
    batch."""

    def __init__(self, layers: Sequence[nn.Module], counts: Sequence[int]) -> None:
        super().__init__()
        self.layers, self._counts = nn.ModuleList(layers), list(counts)

    @property
    def weight(self) -> Any:
        """Of an embedding, which Llama 4 asks for its device."""
        return self.layers[0].weight

    def forward(self, *rest: Any, **more: Any) -> Any:
        rows = len(rest[0] if rest else more["hidden_states"])
        each = rows // sum(self._counts)
        sizes = [each * count for count in self._counts]

        def part(value: Any, number: int) -> Any:
            """What belongs to a layer: of what has a row for each token its rows."""
            split = isinstance(value, torch.Tensor) and value.dim() and len(value) == rows
            return value.split(sizes)[number] if split else value

        results = [
            layer(
                *[part(value, n) for value in rest],
                **{key: part(value, n) for key, value in more.items()},
            )
            for n, layer in enumerate(self.layers)
        ]
        if isinstance(results[0], tuple):
            columns = zip(*results, strict=True)
            return tuple(None if each[0] is None else torch.cat(each) for each in columns)
        return torch.cat(results)


class StreamedStack:
    """A parameter of stacked experts whose matrices stay where they are stored: indexing reads one,
    any function of torch all of them."""

    def __init__(
        self, weights: Weights, name: str, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self._weights, self._name, self.shape, self._device = weights, name, shape, device
        self.factors: Any = None
        """PEFT's change of it: two factors for each expert, and their product's scale."""

    def __getitem__(self, number: Any) -> torch.Tensor:
        matrix = self._weights.expert(self._name, int(number))
        assert matrix is not None
        values = torch.from_numpy(np.ascontiguousarray(matrix)).to(self._device)
        if self.factors is None:
            return values
        left, right, scale = self.factors
        change = left[int(number)] @ right[int(number)]
        changed: torch.Tensor = values + scale * change.to(self._device)
        return changed

    def whole(self) -> torch.Tensor:
        return torch.stack([self[number] for number in range(self.shape[0])])

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), more: Any = None
    ) -> Any:
        read = [each.whole() if isinstance(each, cls) else each for each in arguments]
        return function(*read, **(more or {}))


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
        model = _empty_model(config)
        if adapter is not None:
            _add_adapter(model, adapter)
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
            with self._pool, torch.inference_mode():
                made = self._model(input_ids=rows, use_cache=False).logits
                found: Floats = made.float().cpu().numpy()
        finally:
            torch.set_num_threads(before)
        return found

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
        self._model.set_output_embeddings(_AtPositions(head, places, len(self._variants)))
        found = self._forward(sequences)
        ends = np.cumsum([len(at) for at in positions])[:-1]
        return [np.split(rows, ends) for rows in found]

    def _install(self, parent: nn.Module, path: str) -> None:
        for child_name, child in list(parent.named_children()):
            name = f"{path}{child_name}"
            plain = _without_adapter(child)
            if plain is None and not _is_whole(child):
                self._install(child, f"{name}.")
                for key in set(child._buffers) - child._non_persistent_buffers_set:
                    weights = self._variants[0].weights
                    child._buffers[key] = _parameter(child._buffers[key], weights, f"{name}.{key}")
                continue
            setattr(parent, child_name, self._stacked(child, plain, name))

    def _stacked(self, child: nn.Module, plain: nn.Module | None, name: str) -> StackedVariants:
        """The variants' layers; two variants of the same weights, one behind the other, share what
        is read."""
        layers: list[nn.Module] = []
        counts: list[int] = []
        before: Variant | None = None
        adapted = any(_without_adapter(module) for module in child.modules())
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
                under = self._linear(_Computed, plain, variant.weights, name)
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
        wrappers = _parameter_wrappers(child)
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
            return variant.adapted and parameter is not None and any(parameter.stride())

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
            key: part and self._layer(part, _without_adapter(part), variant, f"{name}.{key}")
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
                result._parameters[key] = _parameter(parameter, weights, f"{name}.{key}")
        for key, buffer in module._buffers.items():
            if key not in module._non_persistent_buffers_set:
                result._buffers[key] = _parameter(buffer, weights, f"{name}.{key}")
        return result


def _is_whole(module: nn.Module) -> bool:
    """Does this layer compute with weights itself, be it with those of a convolution in it?"""
    inside = (isinstance(child, nn.Conv1d) for child in module.children())
    # Llama 4 gives its experts all tokens once for each expert, not those of each variant together.
    reordering = type(module).__name__ == "Llama4TextMoe"
    return reordering or any(inside) or bool(list(module.parameters(recurse=False)))


class _AtPositions(nn.Module):  # type: ignore[misc, unused-ignore]
    """An output layer for some positions alone: [variants * sequences, tokens, hidden] to
    [variants, positions, vocabulary]."""

    def __init__(self, head: nn.Module, places: Ids, variants: int) -> None:
        super().__init__()
        self.head, self._places, self._variants = head, torch.from_numpy(places), variants

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self._places.to(x.device)
        kept: torch.Tensor = self.head(x.reshape(self._variants, -1, x.shape[-1])[:, places])
        return kept


def _add_adapter(model: nn.Module, directory: Path) -> None:
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
    owners = tuple(name.rpartition(".")[0] for name in config.target_parameters or ())
    modules = {name for name in modules if not plain_module(name).endswith(owners or ("\n",))}
    config.target_modules, config.exclude_modules = modules, None
    peft = get_peft_model(model, config, low_cpu_mem_usage=True)
    weights = load_file(directory / ADAPTER_WEIGHTS)
    set_peft_model_state_dict(
        peft,
        {f"{PEFT_PREFIX}{short}": weights[f"{PEFT_PREFIX}{name}"] for name, short in moved.items()},
        low_cpu_mem_usage=True,
    )


def reference_device() -> torch.device:
    """Where the reference is computed: on the GPU, if it has room."""
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] >= GPU_BYTES:
        return torch.device("cuda")
    return torch.device("cpu")


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _parameter(like: torch.Tensor | None, weights: Weights, name: str) -> nn.Parameter | None:
    if like is None:
        return None
    values = torch.from_numpy(np.array(weights.rows(name))).reshape(like.shape)
    return nn.Parameter(values, requires_grad=False)


def _parameter_wrappers(module: nn.Module) -> list[Any]:
    """PEFT's layers on parameters of one module, which are nested."""
    from peft.tuners.lora.layer import ParamWrapper

    found = []
    inner: Any = module
    while isinstance(inner, ParamWrapper):
        found.append(inner)
        inner = inner.base_layer
    return found


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


def reference_logits(
    tuned: GGUFModel,
    adapter: Path,
    sequences: Sequence[Sequence[int]],
    positions: Sequence[Ids],
    *,
    threads: int,
    base_weights: Weights | None = None,
    merged_weights: Weights | None = None,
) -> list[list[Floats]]:
    """Logits [positions, vocabulary] of each sequence, of three models side by side: the base, the
    base with its adapter, the merged weights. Each weight is read when it is needed; the base's
    and the merged ones by the objects given, if they are to see what is read."""
    trainer = base_weights or trainer_weights(tuned)
    merged = merged_weights or tuned.checkpoint
    variants = [Variant(trainer), Variant(trainer, adapted=True), Variant(merged)]
    config = transformers_config(tuned)
    model = StreamedModel(config, variants, adapter=adapter, threads=threads)
    return model.logits_at(sequences, positions)


def trainer_weights(tuned: GGUFModel) -> TrainerWeights:
    """The base of this model as the trainer's libraries read it."""
    silence_libraries()
    return TrainerWeights(tuned.checkpoint.directory, tied=tuned.checkpoint.tied)


def silence_libraries() -> None:
    """Keep back what these libraries note for their own developers."""
    for name in ("torch.utils._pytree", "bitsandbytes", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)


def transformers_config(model: GGUFModel) -> Any:
    """The configuration of the merged checkpoint."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**_with_floats(plain_config(merged_config(model.checkpoint))))


def _with_floats(value: Any) -> Any:
    """Numbers that JSON has not, from how transformers writes them: {"__float__": "Infinity"}."""
    if isinstance(value, dict):
        number = value.get("__float__")
        return float(number) if number else {key: _with_floats(of) for key, of in value.items()}
    return [_with_floats(each) for each in value] if isinstance(value, list) else value
