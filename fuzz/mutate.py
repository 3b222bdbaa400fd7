"""Damaged inputs from good ones, driven by a seed: where atheris is not installed, and in tests."""

from __future__ import annotations

import struct
from random import Random

_NUMBERS = (
    0,
    1,
    2,
    31,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
_WORDS = (
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\",
    b"\n",
    b"\r\n",
    b"\0",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"\xff\xfe",
    b"\xed\xb2\x9b",
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"../",
    b"{{",
    b"%}",
    b"[" * 50,
    b'{"a":' * 20,
    b"9" * 40,
)


def mutated(data: bytes, others: list[bytes], words: tuple[bytes, ...], random: Random) -> bytes:
    """The input with one to eight changes: bits, numbers, words, pieces cut, doubled, moved or
    taken from one of the `others`."""
    for _ in range(1 << random.randrange(4)):
        start = random.randrange(len(data) + 1)
        end = min(start + 1 + int(random.expovariate(1 / 8)), len(data))
        match random.randrange(8):
            case 0 if data:
                place = random.randrange(len(data))
                flipped = data[place] ^ (1 << random.randrange(8))
                data = data[:place] + bytes([flipped]) + data[place + 1 :]
            case 1:
                number, form = random.choice(_NUMBERS), random.choice(["<B", "<H", "<I", "<Q"])
                size = struct.calcsize(form)
                packed = struct.pack(form, number % (1 << 8 * size))
                data = data[:start] + packed + data[start + size :]
            case 2 | 3:
                word = (
                    random.choice(words or _WORDS) if random.random() < 0.6 else _any_word(random)
                )
                data = data[:start] + word + data[random.choice((start, end)) :]
            case 4:
                data = data[:start] + data[end:]
            case 5:
                data = data[:start] + data[start:end] * random.randrange(1, 40) + data[end:]
            case 6:
                other = random.choice(others)
                place = random.randrange(len(other) + 1)
                data = data[:start] + other[place : place + end - start + 16] + data[end:]
            case _:
                data = data[: random.choice((start, end, len(data)))]
    return data[: 1 << 16]


def _any_word(random: Random) -> bytes:
    return random.choice(_WORDS)
