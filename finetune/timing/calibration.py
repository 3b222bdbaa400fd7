"""The pace of this machine: one decoder layer of a base's shape with its adapter, timed forward and
backward, and the output layer with its loss.

Needs torch and no weights: the numbers in the matrices don't matter. Everything else that takes
time in training (the optimizer, the trainer's own work) is a share that was measured; see
`tuneserve.finetune.timing.estimate`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from tuneserve.finetune.memory.model import LONGEST_PLAIN
from tuneserve.model_shape import ModelShape
from tuneserve.settings import TrainSettings

# Each of the three timings runs this long, and a single run of it takes at most this share.
_SECONDS = 2.5
_LONGEST_RUN = 0.25
_FEWEST_RUNS = 3
# Rows of the output layer that are timed; time grows with its rows.
_MOST_ROWS = 16_384
# Tokens that are timed at the most, and with which the probe begins.
_MOST_TOKENS = 8192
_FEWEST_TOKENS = 64
_NOISE = 1 << 16
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True)
class Pace:
    """Seconds a token, forward and backward: of the matrix products of one layer, of the whole
    layer computed one operation after the other, of the output layer with the loss. `tokens` were
    computed at a time; `seconds` is what measuring took."""

    products: float
    layer: float
    head: float
    tokens: int
    seconds: float


def needed_bytes(shape: ModelShape, precision: str) -> int:
    """Memory that timing takes at the most, about: the weights, and twice what a layer keeps."""
    weights = sum(inputs * outputs for inputs, outputs in _projections(shape).values())
    weights += min(shape.vocabulary, _MOST_ROWS) * shape.hidden
    return (4 if precision == "fp32" else 2) * (weights + 2 * _MOST_TOKENS * shape.kept_per_token)


def measure_pace(
    torch: Any,
    shape: ModelShape,
    settings: TrainSettings,
    *,
    device: str,
    precision: str,
    batch: int,
    length: int,
) -> Pace:
    """Time this machine with batches of `batch` examples of `length` tokens, or with fewer tokens
    where these would take too long.

    `precision`: 'bf16', 'fp16' or 'fp32'. Of a mixture the experts that a token goes through are
    taken for one dense layer.
    """
    started = time.monotonic()
    layer = _Layer(torch, shape, settings, device, precision)
    tokens = _fitting(layer, batch * length, length)
    rows = min(length, tokens)
    examples = max(1, tokens // rows)
    products = _timed(layer, lambda: layer.products(examples, rows))
    whole = _timed(layer, lambda: layer.step(examples, rows))
    computed = examples * rows
    # The scores of longer examples than were timed, as matrix products.
    longer = layer.attention_share(length, rows) * products / computed
    return Pace(
        products=products / computed + longer,
        layer=max(whole, products) / computed + longer,
        head=_timed(layer, lambda: layer.head(computed)) / computed * layer.head_share,
        tokens=computed,
        seconds=time.monotonic() - started,
    )


def _fitting(layer: _Layer, wanted: int, length: int) -> int:
    """As many tokens of those `wanted` as one run may take."""
    tokens = min(_FEWEST_TOKENS, wanted)
    limit = min(wanted, _MOST_TOKENS)
    layer.step(1, min(tokens, length))  # what is allocated or compiled once
    while tokens < limit:
        began = time.monotonic()
        layer.step(max(1, tokens // length), min(tokens, length))
        layer.finish()
        taken = time.monotonic() - began
        if 2 * taken > _LONGEST_RUN * _SECONDS:
            break
        tokens = min(2 * tokens, limit)
    return tokens


def _timed(layer: _Layer, work: Callable[[], None]) -> float:
    """The median seconds of a run."""
    work()
    layer.finish()
    runs: list[float] = []
    until = time.monotonic() + _SECONDS
    while len(runs) < _FEWEST_RUNS or time.monotonic() < until:
        began = time.monotonic()
        work()
        layer.finish()
        runs.append(time.monotonic() - began)
    return median(runs)


class _Layer:
    """A decoder layer with random weights, its adapter, and a part of the output layer."""

    def __init__(
        self, torch: Any, shape: ModelShape, settings: TrainSettings, device: str, precision: str
    ) -> None:
        self.torch, self.shape, self.device = torch, shape, device
        names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
        self.dtype = getattr(torch, names[precision])
        self.mixed = precision != "fp32"
        self._inputs: dict[tuple[int, ...], Any] = {}
        self._noise = torch.randn(_NOISE, device=device) * 0.02
        self.sizes = _projections(shape)
        targets = {part for name in settings.target_modules for part in _FUSED.get(name, (name,))}
        leaves = {name.rpartition(".")[2] for name in targets}
        self.weights = {name: self._random(out, of) for name, (of, out) in self.sizes.items()}
        self.adapters = {
            name: (
                self._random(settings.r, of, dtype=torch.float32, trained=True),
                self._random(out, settings.r, dtype=torch.float32, trained=True),
            )
            for name, (of, out) in self.sizes.items()
            if name in leaves
        }
        self.norm = self._random(shape.hidden)
        self.head_rows = min(shape.vocabulary, _MOST_ROWS)
        self.output = self._random(self.head_rows, shape.hidden)

    @property
    def head_share(self) -> float:
        return self.shape.vocabulary / self.head_rows

    def finish(self) -> None:
        """Wait until the device has done what it was asked."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def attention_share(self, length: int, timed: int) -> float:
        """What the scores of `length` tokens take more than those of `timed` tokens, as a share of
        the layer's products with the latter."""
        linear = sum(of * out for of, out in self.sizes.values())
        return self.shape.query * (length - timed) * 1.5 / (linear + 1.5 * self.shape.query * timed)

    def step(self, examples: int, length: int) -> None:
        """Forward and backward through the layer, as transformers and PEFT compute it."""
        torch = self.torch
        hidden = self._input(examples, length, self.shape.hidden).detach().requires_grad_()
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.mixed):
            out = self._forward(hidden)
        out.backward(torch.ones_like(out))

    def _forward(self, hidden: Any) -> Any:
        functional = self.torch.nn.functional
        normed = self._normed(hidden)
        query, key, value = (
            self._heads(self._linear(normed, name)) for name in ("q_proj", "k_proj", "v_proj")
        )
        query, key = self._rotated(query), self._rotated(key)
        attended = self._attended(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + self._linear(attended, "o_proj")
        normed = self._normed(hidden)
        gated = functional.silu(self._linear(normed, "gate_proj"))
        return hidden + self._linear(gated * self._linear(normed, "up_proj"), "down_proj")

    def _linear(self, value: Any, name: str) -> Any:
        linear = self.torch.nn.functional.linear
        out = linear(value, self.weights[name])
        if name not in self.adapters:
            return out
        down, up = self.adapters[name]
        return out + linear(linear(value.to(down.dtype), down), up) * 1.0

    def _normed(self, hidden: Any) -> Any:
        wide = hidden.to(self.torch.float32)
        wide = wide * self.torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.norm * wide.to(hidden.dtype)

    def _heads(self, value: Any) -> Any:
        return value.unflatten(-1, (-1, self.shape.head)).transpose(1, 2)

    def _rotated(self, value: Any) -> Any:
        first, second = value.chunk(2, dim=-1)
        turned = self.torch.cat((-second, first), dim=-1)
        angle = self._input(*value.shape[-2:])
        return value * angle + turned * angle

    def _attended(self, query: Any, key: Any, value: Any) -> Any:
        functional = self.torch.nn.functional
        repeated = [one.repeat_interleave(self.shape.grouping, dim=1) for one in (key, value)]
        if self.device == "cpu" and query.shape[-2] <= LONGEST_PLAIN:
            scores = query @ repeated[0].transpose(-2, -1)
            return scores.softmax(-1) @ repeated[1]
        return functional.scaled_dot_product_attention(query, *repeated, is_causal=True)

    def products(self, examples: int, length: int) -> None:
        """The layer's matrix products alone, forward and backward."""
        count = examples * length
        with self.torch.no_grad():
            for name, (of, out) in self.sizes.items():
                value, gradient = self._input(count, of), self._input(count, out)
                _ = value @ self.weights[name].T, gradient @ self.weights[name]
                if name in self.adapters:
                    down, up = (one.to(self.dtype) for one in self.adapters[name])
                    small = value @ down.T
                    _ = small @ up.T, gradient.T @ small
                    back = gradient @ up
                    _ = back @ down, back.T @ value
            self._score_products(examples, length)

    def _score_products(self, examples: int, length: int) -> None:
        heads, head = self.shape.heads, self.shape.head
        query = self._input(examples * heads, length, head)
        if self.device != "cpu" or length > LONGEST_PLAIN:
            return  # never written out: they are in the whole layer's time
        scores = query @ query.mT
        # Forward scores @ values; backward the gradients of scores, values, queries and keys.
        _ = scores @ query, query @ query.mT, scores.mT @ query, scores @ query, scores.mT @ query

    def head(self, count: int) -> None:
        """Logits, their loss and its gradient, chunk by chunk."""
        torch = self.torch
        with torch.no_grad():
            for part in self._input(count, self.shape.hidden).split(256):
                chances = (part @ self.output.T).float().softmax(-1)
                _ = chances.to(self.dtype) @ self.output

    def _input(self, *sizes: int) -> Any:
        """Small numbers to compute with, made once."""
        if sizes not in self._inputs:
            self._inputs[sizes] = self._random(*sizes)
        return self._inputs[sizes]

    def _random(self, *sizes: int, dtype: Any = None, trained: bool = False) -> Any:
        """Small numbers: in a large tensor the same ones come again and again."""
        count = math.prod(sizes)
        noise = self._noise.to(dtype or self.dtype)
        value = noise.repeat(-(-count // len(noise)))[:count].view(*sizes)
        return value.requires_grad_(trained)


def _projections(shape: ModelShape) -> Mapping[str, tuple[int, int]]:
    sizes = dict(shape.projections)
    if shape.experts is not None:
        wide = shape.experts.used * shape.experts.intermediate + shape.experts.shared
        hidden = shape.hidden
        sizes |= {"gate_proj": (hidden, wide), "up_proj": (hidden, wide)}
        sizes |= {"down_proj": (wide, hidden)}
    return sizes
