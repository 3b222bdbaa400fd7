"""Attention over a tree of beginnings, computed for those pairs of tokens that see each other.

One row that holds a whole batch has many pairs of which most are masked. Here the queries stand in
chunks of tokens that follow one another, and each chunk has its own beginning as keys: as many
pairs as the examples have, computed in one product. It takes the place of transformers' `sdpa`
where a batch brings chunks, and leaves everything else to it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

CHUNKS = "prefix_chunks"
"""The argument of a model's forward that holds a batch's Chunks."""


class Chunks(NamedTuple):
    """The places of a row as `count` chunks of `size` queries, which see up to `keys` places.

    `queries` [count * size] and `keys` [count * keys] are places; `hidden` [count, size, keys] is
    True where a query does not see a key; `order` [length] says for each place which query it is.
    """

    queries: Any
    keys: Any
    hidden: Any
    order: Any


def install() -> None:
    """Have transformers' `sdpa` compute chunks where a batch brings them. Idempotent."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if getattr(usual, "takes_chunks", False):
        return

    def attention(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **given: Any
    ) -> Any:
        chunks = given.pop(CHUNKS, None)
        if chunks is None or given.get("dropout") or given.get("position_bias") is not None:
            return usual(module, query, key, value, attention_mask, **given)
        return attend(query, key, value, chunks, given.get("scaling")), None

    attention.takes_chunks = True  # type: ignore[attr-defined]
    ALL_ATTENTION_FUNCTIONS.register("sdpa", attention)


def attend(query: Any, key: Any, value: Any, chunks: Chunks, scaling: float | None) -> Any:
    """The attention of one row, [1, length, heads, width of a value].

    `query` is [1, heads, length, width], `key` and `value` have a divisor of as many heads.
    """
    count, size, seen = chunks.hidden.shape
    heads, groups = query.shape[1], key.shape[1]
    queries = query[0].transpose(0, 1).index_select(0, chunks.queries)
    keys = key[0].transpose(0, 1).index_select(0, chunks.keys)
    values = value[0].transpose(0, 1).index_select(0, chunks.keys)
    # [count, groups, heads of a group, size, width] and [count, groups, 1, keys, width]
    queries = queries.view(count, size, groups, heads // groups, -1).permute(0, 2, 3, 1, 4)
    queries = queries.reshape(count, groups, (heads // groups) * size, -1)
    keys = keys.view(count, seen, groups, -1).permute(0, 2, 3, 1)
    values = values.view(count, seen, groups, -1).transpose(1, 2)
    scores = (queries * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ keys
    scores = scores.view(count, groups, heads // groups, size, seen)
    scores = scores.masked_fill(chunks.hidden[:, None, None], float("-inf"))
    exact = scores if scores.element_size() >= 4 else scores.float()
    shares = exact.softmax(-1).to(values.dtype).view(count, groups, -1, seen)
    found = (shares @ values).view(count, groups, heads // groups, size, -1)
    found = found.permute(0, 3, 1, 2, 4).reshape(count * size, heads, -1)
    return found.index_select(0, chunks.order)[None]
