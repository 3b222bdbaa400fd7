"""What an adapter does to the tensors of one base, by the base's names; checked to fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.merge.adapter import Adapter, LowRank, TokenRows, plain_module, scale_of
from tuneserve.convert.merge.experts import ExpertParameter, StackedLowRank, stacked_change
from tuneserve.convert.merge.four_bit import ReadableTensor
from tuneserve.errors import UsageError
from tuneserve.safetensors import StoredTensor
from tuneserve.text_model import part_name

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
TABLES = (EMBEDDING, HEAD)
# Gemma 3n and 4 have a second embedding, of each layer.
_BY_LAYER = "model.embed_tokens_per_layer.weight"
Found = TypeVar("Found")


@dataclass(frozen=True)
class Applied:
    """By tensor: `changes` of low rank, tensors `replaced` whole, `biases` added, rows of `tokens`.

    `untrained` are those of `replaced` that are no result of the training: an embedding as it was
    when its adapter began. `ensures_tied`: PEFT's `ensure_weight_tying`.
    """

    changes: Mapping[str, LowRank | StackedLowRank] = field(default_factory=dict)
    replaced: Mapping[str, StoredTensor] = field(default_factory=dict)
    biases: Mapping[str, Floats] = field(default_factory=dict)
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)
    untrained: frozenset[str] = frozenset()
    ensures_tied: bool = False

    def is_changed(self, name: str) -> bool:
        return any(name in part for part in (self.changes, self.replaced, self.biases, self.tokens))

    @cached_property
    def head_follows(self) -> bool:
        """Does what happens to a tied embedding happen to the output too? PEFT trains rows of
        tokens so, and all else with `ensure_weight_tying`; it may save both and leave them
        equal."""
        if EMBEDDING in self.replaced and HEAD in self.replaced:
            adapted = EMBEDDING in self.changes or HEAD in self.changes
            if not adapted and self._same_tokens() and self._same_tables():
                return True
        if EMBEDDING in self.changes or EMBEDDING in self.replaced:
            return self.ensures_tied
        return EMBEDDING in self.tokens and HEAD not in self.changes

    def _same_tables(self) -> bool:
        one, other = self.replaced[EMBEDDING], self.replaced[HEAD]
        return one.shape == other.shape and np.array_equal(one.rows(), other.rows())

    def _same_tokens(self) -> bool:
        one, other = self.tokens.get(EMBEDDING), self.tokens.get(HEAD)
        if one is None or other is None:
            return one is other
        return np.array_equal(one.numbers, other.numbers) and np.array_equal(
            one.values, other.values
        )


def apply_adapter(
    adapter: Adapter,
    base: Mapping[str, ReadableTensor],
    *,
    tied: bool,
    text_name: Callable[[str], str | None],
    stored_name: Callable[[str], str],
    expert_parameter: Callable[[str], ExpertParameter | None],
) -> Applied:
    """`tied`: the base's output is its embedding; `text_name`: what the base calls a tensor that
    the adapter names, None for what is none of its text model; `stored_name`: what its files call
    it.

    Raises UsageError for an adapter that does not fit, naming every tensor.
    """

    def named(by_name: Mapping[str, Found]) -> dict[str, Found]:
        found = {text_name(name): value for name, value in by_name.items()}
        _check_text(adapter, {n: v for n, v in by_name.items() if text_name(n) is None})
        return {name: value for name, value in found.items() if name is not None}

    applied = Applied(
        changes={
            **named(adapter.changes),
            **_stacked_changes(adapter, named(adapter.stacked), expert_parameter),
        },
        replaced=named(adapter.replaced),
        biases=named(adapter.biases),
        tokens=named(adapter.tokens),
        untrained=frozenset(filter(None, map(text_name, adapter.untrained))),
        ensures_tied=bool(adapter.config.get("ensure_weight_tying")),
    )
    missing = [
        f"{name}: no adapter, other layers have one"
        for name in adapter.one_sided
        if text_name(f"{name}.weight") in base
    ]
    if missing:
        raise UsageError(
            "this adapter is damaged", where=str(adapter.directory), problems=missing
        )  # fmt: skip
    if problems := _mismatches(applied, base, stored_name):
        raise UsageError(
            f"this adapter does not belong to the base ({len(problems)} mismatches)",
            where=str(adapter.directory),
            problems=problems,
            hint=f"It was trained on '{adapter.config.get('base_model_name_or_path')}'.",
        )
    alone = tied and (applied.head_follows or EMBEDDING in applied.untrained)
    _check_resized(adapter.directory, applied, base, alone=alone)
    return applied


def _check_text(adapter: Adapter, outside: Mapping[str, object]) -> None:
    """Raise UsageError if the adapter changes what is none of the text model's."""
    # What got no gradient is as PEFT begins: it adds nothing.
    strangers = [
        name
        for name, change in outside.items()
        if not isinstance(change, LowRank) or change.b.any()
    ]
    if strangers:
        parts = ", ".join(dict.fromkeys(map(part_name, strangers)))
        raise UsageError(
            f"this adapter changes {len(strangers)} tensors outside the text model",
            where=str(adapter.directory),
            problems=strangers,
            hint=f"A GGUF holds the text model alone: train without the layers of {parts}.",
        )


def _stacked_changes(
    adapter: Adapter,
    stacked: Mapping[str, tuple[Floats, Floats]],
    expert_parameter: Callable[[str], ExpertParameter | None],
) -> dict[str, LowRank | StackedLowRank]:
    """The changes of stacked experts, by the names of the stored tensors.

    Raises UsageError for factors that fit none of the base's parameters.
    """
    found: dict[str, LowRank | StackedLowRank] = {}
    for module, (a, b) in stacked.items():
        for leaf in ("gate_up_proj", "down_proj"):
            name = f"{plain_module(module)}.{leaf}"
            parameter = expert_parameter(name)
            if parameter is None or stacked_change(parameter, a, b, 1.0) is None:
                continue
            scale = scale_of(adapter.config, name, rank=len(a) // parameter.shape[0])
            change = stacked_change(parameter, a, b, scale)
            assert change is not None
            for part in parameter.parts:
                found[part.name] = change if part.expert is None else LowRank(
                    change.a[part.expert], change.b[part.expert, part.first : part.last], scale
                )  # fmt: skip
            break
        else:
            raise UsageError(
                "this adapter does not belong to the base",
                where=str(adapter.directory),
                problems=[f"{module}: no stacked experts of the base have such factors"],
            )
    return found


def _mismatches(
    applied: Applied, base: Mapping[str, ReadableTensor], stored_name: Callable[[str], str]
) -> list[str]:
    """Every tensor that the base has not, or of another shape; a table that the adapter brings
    whole may have any number of rows."""
    problems = []

    def check(kind: str, name: str, shape: tuple[int, ...], expected: str = "") -> None:
        stored = base.get(stored_name(expected or name))
        if stored is None:
            problems.append(f"{name}: the base has no such {kind}")
            return
        whole = applied.replaced.get(name)
        rows = whole.shape[:1] if name in TABLES and whole is not None else stored.shape[:1]
        wanted = (*rows, *stored.shape[1:])
        # A bias has one number for each row of its weight.
        wanted = wanted[:1] if kind == "bias" else wanted
        if wanted != shape:
            problems.append(f"{name}: the base has {list(wanted)}, the adapter {list(shape)}")

    for name, change in applied.changes.items():
        check("weight", name, change.shape)
    for name, tensor in applied.replaced.items():
        check("tensor", name, tensor.shape)
    for name, bias in applied.biases.items():
        check("bias", name, bias.shape, f"{name.removesuffix('.bias')}.weight")
    for name, tokens in applied.tokens.items():
        table = applied.replaced.get(name) or base.get(stored_name(name))
        if table is None:
            problems.append(f"{name}: the base has no such table of tokens")
            continue
        rows, *columns = table.shape
        if list(tokens.values.shape[1:]) != columns:
            problems.append(
                f"{name}: the base's rows have {columns} columns, those of the trained tokens "
                f"{list(tokens.values.shape[1:])}"
            )
        if tokens.numbers.max(initial=-1) >= rows:
            problems.append(f"{name}: the base has {rows} rows, a trained token lies beyond")
    return problems


def _check_resized(
    directory: Path, applied: Applied, base: Mapping[str, ReadableTensor], *, alone: bool
) -> None:
    """Raise UsageError if a resized embedding or output is not here. `alone`: the embedding's rows
    tell a tied output's."""
    rows = {name: tensor.shape[0] for name, tensor in base.items() if name in TABLES}
    resized = {name: t.shape[0] for name, t in applied.replaced.items() if name in TABLES}
    if set(resized.values()) <= {rows[EMBEDDING]}:
        return
    if _BY_LAYER in base:
        raise UsageError(
            "the vocabulary was resized; PEFT does not save the embeddings by layer that this base "
            "has besides",
            where=str(directory),
        )
    needed = {EMBEDDING} if alone else set(TABLES)
    if needed <= resized.keys() and len(set(resized.values())) == 1:
        return
    raise UsageError(
        "the vocabulary was resized, and not both embedding and output are in the adapter",
        where=str(directory),
        problems=[f"{name}: {resized.get(name, rows[EMBEDDING])} rows" for name in TABLES],
        hint='Train both (modules_to_save = ["embed_tokens", "lm_head"]), or merge with PEFT into '
        "the resized base, and name the merged checkpoint as the base.",
    )
