"""Kinds of examples: the shape of a record, and what sets it apart from a question and its answer.

The figures that say which examples a data set is made of, and by which `tuneserve preview` chooses
what to show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuneserve.chat.examples import Example
from tuneserve.chat.thinking import REASONING
from tuneserve.records import Record

# The parts of the task's data, in the order in which a typical example is looked for.
_PARTS = ("train", "eval", "test")


class Kind(Record):
    """Examples of one kind: their number by part of the data, and the place of the first."""

    name: str
    examples: dict[str, int]
    first: str

    @property
    def total(self) -> int:
        return sum(self.examples.values())


@dataclass(frozen=True)
class KindMember:
    """An example with the part of the data that it stands in, its place there, and whether its end
    is cut off."""

    part: str
    place: int
    example: Example
    cut: bool = False


def kind_of(example: Example, *, cut: bool = False) -> str:
    """'messages with tools, calls, several turns' and the like."""
    found = [*features(example), *(["its end cut off"] if cut else [])]
    shape = example.shape or ("conversation" if example.prompt else "text")
    return f"{shape} with {', '.join(found)}" if found else shape


def features(example: Example) -> Iterator[str]:
    """What there is in the example beside a question and its answer."""
    answers = [message for message in example.messages if message["role"] == "assistant"]
    if example.tools:
        yield "tools"
    if any(answer.get("tool_calls") for answer in answers):
        yield "calls"
    if any(answer.get(REASONING) for answer in answers):
        yield "thoughts"
    if len(answers) > 1:
        yield "several turns"
    if any(answer.get("weight") == 0 for answer in answers):
        yield "answers only read"


def grouped_by_kind(members: Sequence[KindMember]) -> dict[str, list[KindMember]]:
    """The members by the name of their kind, the kind with most of them first."""
    found: dict[str, list[KindMember]] = {}
    for member in members:
        found.setdefault(kind_of(member.example, cut=member.cut), []).append(member)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def kinds_of(groups: Mapping[str, Sequence[KindMember]]) -> list[Kind]:
    """The figures of `grouped_by_kind`."""
    found = []
    for name, members in groups.items():
        parts = [member.part for member in members]
        counts = {part: parts.count(part) for part in dict.fromkeys([*_PARTS, *parts])}
        found.append(
            Kind(
                name=name,
                examples={part: count for part, count in counts.items() if count},
                first=members[0].example.where,
            )
        )
    return found


def typical(members: Sequence[KindMember], lengths: Sequence[int]) -> KindMember:
    """The member of middle length among those that are trained, or where none is among those of
    the part that comes first. `lengths` [members], in tokens or characters."""
    parts = {member.part for member in members}
    part = next((name for name in _PARTS if name in parts), members[0].part)
    measured = sorted(
        (length, place)
        for place, (member, length) in enumerate(zip(members, lengths, strict=True))
        if member.part == part
    )
    return members[measured[(len(measured) - 1) // 2][1]]
