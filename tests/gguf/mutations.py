"""Damaged GGUFs: of a small one and a seed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from tuneserve.gguf.reader import ARRAY, SCALARS, STRING

SHORT = 2000
"""Bytes of an entry up to which it is no list of a vocabulary: changes there hit sizes and ids."""
ODD = (0, 1, 2, 7, 255, 49153, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
ODD_FLOATS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))


@dataclass(frozen=True)
class Span:
    """An entry's bytes [start, end) of the file, and where its value begins."""

    start: int
    value: int
    end: int
    kind: int = STRING


@dataclass(frozen=True)
class Layout:
    """Where the entries of a header lie, those of its tensors, and where the data begin."""

    entries: tuple[Span, ...]
    tensors: tuple[Span, ...]
    data: int


@cache
def layout(data: bytes) -> Layout:
    """Of a GGUF that is whole."""
    n_tensors, n_entries = struct.unpack_from("<QQ", data, 8)
    at = 24

    def text(at: int) -> int:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])

    entries = []
    for _ in range(n_entries):
        value = text(at) + 4
        (kind,) = struct.unpack_from("<I", data, value - 4)
        end = value
        if kind == STRING:
            end = text(value)
        elif kind == ARRAY:
            inner, count = struct.unpack_from("<IQ", data, value)
            end = value + 12
            for _ in range(count if inner == STRING else 0):
                end = text(end)
            end += count * struct.calcsize(SCALARS.get(inner, "")) if inner != STRING else 0
        else:
            end = value + struct.calcsize(SCALARS[kind])
        entries.append(Span(at, value, end, kind))
        at = end
    tensors = []
    for _ in range(n_tensors):
        value = text(at)
        end = value + 4 + 8 * int(struct.unpack_from("<I", data, value)[0]) + 12
        tensors.append(Span(at, value, end))
        at = end
    return Layout(tuple(entries), tuple(tensors), -(-at // 32) * 32)


def mutate(data: bytes, seed: int) -> bytes:
    """The GGUF with one kind of damage; the same for the same seed."""
    random, places = Random(seed), layout(data)
    damage = _DAMAGES[seed % len(_DAMAGES)]
    return damage(bytearray(data), places, random)


def _short(places: Layout, random: Random) -> int:
    """A place in an entry that is no table."""
    span = random.choice([one for one in places.entries if one.end - one.start < SHORT])
    return random.randrange(span.start, span.end)


def _flip(data: bytearray, place: int, random: Random) -> None:
    data[place] ^= 1 << random.randrange(8)


def _flips_in_entries(data: bytearray, places: Layout, random: Random) -> bytes:
    for _ in range(random.randint(1, 4)):
        _flip(data, _short(places, random), random)
    return bytes(data)


def _flips_in_tensors(data: bytearray, places: Layout, random: Random) -> bytes:
    for _ in range(random.randint(1, 3)):
        span = random.choice(places.tensors)
        _flip(data, random.randrange(span.start, span.end), random)
    return bytes(data)


def _odd_number(data: bytearray, places: Layout, random: Random) -> bytes:
    span = random.choice(places.tensors)
    place = random.randrange(span.start, span.end) if random.random() < 0.5 else 0
    struct.pack_into("<Q", data, place or _short(places, random), random.choice(ODD))
    return bytes(data)


def _cut(data: bytearray, places: Layout, random: Random) -> bytes:
    most = random.choice([64, places.data, len(data)])
    return bytes(data[: random.randrange(most)])


def _counts(data: bytearray, places: Layout, random: Random) -> bytes:
    place = random.choice([4, 8, 16])
    number = random.choice(ODD)
    struct.pack_into("<I", data, 4, number % 2**32) if place == 4 else struct.pack_into(
        "<Q", data, place, number
    )
    return bytes(data)


def _random_bytes(data: bytearray, places: Layout, random: Random) -> bytes:
    for _ in range(random.randint(1, 30)):
        data[random.randrange(24, places.tensors[0].start)] = random.randrange(256)
    return bytes(data)


def _other_value(data: bytearray, places: Layout, random: Random) -> bytes:
    """A number of the metadata becomes an odd one of its type; one in a list likewise."""
    for _ in range(random.randint(1, 2)):
        span = random.choice([one for one in places.entries if one.kind != STRING])
        kind, place = span.kind, span.value
        if kind == ARRAY:
            kind, count = struct.unpack_from("<IQ", data, place)
            if kind not in SCALARS or not count:
                continue
            place += 12 + random.randrange(count) * struct.calcsize(SCALARS[kind])
        form = SCALARS[kind]
        if form in "fd":
            struct.pack_into(f"<{form}", data, place, random.choice(ODD_FLOATS))
        else:
            number = random.choice(ODD) % (1 << 8 * struct.calcsize(form))
            data[place : place + struct.calcsize(form)] = number.to_bytes(
                struct.calcsize(form), "little"
            )
    return bytes(data)


def _other_entries(data: bytearray, places: Layout, random: Random) -> bytes:
    """An entry or a tensor is gone or stands there twice, with the counts that go with it."""
    tensors = random.random() < 0.5
    spans = list(places.tensors if tensors else places.entries)
    one = random.randrange(len(spans))
    spans[one : one + 1] = [] if random.random() < 0.7 else [spans[one]] * 2
    kept = [places.entries, spans] if tensors else [spans, places.tensors]
    head = bytearray(data[:8]) + struct.pack("<QQ", len(kept[1]), len(kept[0]))
    for span in (*kept[0], *kept[1]):
        head += data[span.start : span.end]
    return bytes(head) + bytes(-len(head) % 32) + bytes(data[places.data :])


def _other_texts(data: bytearray, places: Layout, random: Random) -> bytes:
    """A text of the metadata becomes another's: names of architectures, tokenizers, keys."""
    texts = [one for one in places.entries if one.kind == STRING and one.end - one.value < 200]
    one, other = random.sample(texts, 2)
    head = (
        data[: one.value] + data[other.value : other.end] + data[one.end : places.tensors[-1].end]
    )
    return bytes(head) + bytes(-len(head) % 32) + bytes(data[places.data :])


def _weights(data: bytearray, places: Layout, random: Random) -> bytes:
    """Bytes of weights, which may become no finite numbers."""
    for _ in range(random.randint(1, 2000)):
        data[random.randrange(places.data, len(data))] = random.choice([0x7F, 0xFF, 0x80, 0x00])
    return bytes(data)


_DAMAGES: tuple[Callable[[bytearray, Layout, Random], bytes], ...] = (
    _flips_in_entries, _flips_in_tensors, _odd_number, _cut, _counts, _random_bytes, _other_value,
    _other_entries, _other_texts, _other_value, _weights,
)  # fmt: skip
