"""Which rules, of a grammar or a schema, have something that ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def ending_keys(needs: Mapping[Hashable, Sequence[Sequence[Hashable]]]) -> set[Hashable]:
    """Of `needs`' keys those that come to an end: in each of their groups is one that does. What
    is no key does. In time proportional to its size."""
    open_groups = {key: len(groups) for key, groups in needs.items()}
    waiting: dict[Hashable, list[tuple[Hashable, int]]] = {}
    for key, groups in needs.items():
        for number, group in enumerate(groups):
            for one in group:
                waiting.setdefault(one, []).append((key, number))
    ended = {key for key, count in open_groups.items() if not count}
    ended |= set(waiting) - set(needs)
    closed = set()
    left = list(ended)
    while left:
        for key, number in waiting.get(left.pop(), ()):
            if (key, number) not in closed:
                closed.add((key, number))
                open_groups[key] -= 1
                if not open_groups[key]:
                    ended.add(key)
                    left.append(key)
    return ended & set(needs)
