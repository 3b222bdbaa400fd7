"""Layers of PyTorch whose weights stay where they are stored: read slab by slab, multiplied with
and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from tuneserve.arrays import Ids
from tuneserve.convert.slabs import row_spans
from tuneserve.convert.verify.weights import Weights
from tuneserve.errors import TuneserveError


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
        like_bias = torch.empty(shape[0]) if weights.adds_bias(f"{name}.bias") else like.bias
        bias = as_parameter(like_bias, weights, f"{name}.bias")
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


class Computed(StreamedLinear):
    """A layer whose result is at hand, for PEFT's layer on it to add to."""

    result: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.result


class SharedLinear(nn.Module):  # type: ignore[misc, unused-ignore]
    """A base's layer and PEFT's layer on the same weights, which are read once for both."""

    def __init__(self, base: StreamedLinear, adapted: nn.Module, under: Computed) -> None:
        super().__init__()
        self.base, self.adapted, self.under = base, adapted, under

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain, self.under.result = self.base(x).chunk(2)
        made = torch.cat([plain, self.adapted(x.chunk(2)[1])])
        del self.under.result  # else every layer's would stay until the last
        return made


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


class AtPositions(nn.Module):  # type: ignore[misc, unused-ignore]
    """An output layer for some positions alone: [variants * sequences, tokens, hidden] to
    [variants, positions, vocabulary]."""

    def __init__(self, head: nn.Module, places: Ids, variants: int) -> None:
        super().__init__()
        self.head, self._places, self._variants = head, torch.from_numpy(places), variants

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self._places.to(x.device)
        kept: torch.Tensor = self.head(x.reshape(self._variants, -1, x.shape[-1])[:, places])
        return kept


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def as_parameter(like: torch.Tensor | None, weights: Weights, name: str) -> nn.Parameter | None:
    if like is None:
        return None
    values = torch.from_numpy(np.array(weights.rows(name))).reshape(like.shape)
    return nn.Parameter(values, requires_grad=False)
