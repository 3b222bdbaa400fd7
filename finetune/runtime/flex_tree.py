"""Attention over a tree of beginnings on a GPU, by Unsloth's FlexAttention.

Unsloth's own forwards hand `prefix_seg_info` on to a FlexAttention kernel: one beginning with many
answers behind it, for reinforcement learning. A tree of any number of levels takes the same way
with a mask of its own. Blocks of it that show nothing are not computed.
"""

from __future__ import annotations

import functools
from typing import Any

TREE = "prefix_seg_info"
"""The argument of a model's forward that holds a batch's FlexTree."""
UNIT = 128
"""The kernel's backward pass wants rows of a multiple of so many tokens."""
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "granite", "cohere")
"""Values of model_type whose forwards hand a tree on. Gemma 2's does too, without its soft cap."""


class FlexTree:
    """One row of places, of which place i is seen from itself up to `ends[i]` - 1.

    `ends` [length] is on the device, and `length` a multiple of UNIT. `uses` counts the layers
    whose attention asked for the mask: forwards of other architectures pass over the argument.
    """

    def __init__(self, ends: Any) -> None:
        self.ends = ends
        # Names of Unsloth's: the row's tokens, and those with what fills it up.
        self.T = self.T_pad = len(ends)
        self.uses = 0
        self._mask: Any = None

    def block_mask(self, device: Any, *, compiled: bool = True) -> Any:
        """Which blocks of places see each other; made once, also for what is computed again.
        Compiled, it never has the mask of all pairs in memory."""
        self.uses += 1
        if self._mask is None:
            import torch
            from torch.nn.attention.flex_attention import create_block_mask

            made = _compiled_maker() if compiled else create_block_mask
            with torch.inference_mode(False):
                seen = _seen(self.ends.to(device))
                self._mask = made(seen, 1, None, self.T, self.T, device=device)
        return self._mask


def _seen(ends: Any) -> Any:
    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (key <= query) & (query < ends[key])

    return seen


@functools.cache
def _compiled_maker() -> Any:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask, dynamic=True)


def install() -> None:
    """Have Unsloth's kernel for shared prefixes take trees. Idempotent."""
    from unsloth.utils import prefix_grouper_kernel

    take_trees(prefix_grouper_kernel)


def take_trees(kernel: Any) -> None:
    """Have this module of Unsloth's take FlexTrees beside its own PrefixSegInfo."""
    usual = kernel.get_block_mask
    if getattr(usual, "takes_trees", False):
        return

    def block_mask(seg: Any, device: Any, compile_mask: bool = True) -> Any:
        if isinstance(seg, FlexTree):
            return seg.block_mask(device, compiled=compile_mask)
        return usual(seg, device, compile_mask)

    block_mask.takes_trees = True  # type: ignore[attr-defined]
    kernel.get_block_mask = block_mask
