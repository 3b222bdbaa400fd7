"""Damaged GGUFs by the thousand: each is refused by tuneserve, refused by llama.cpp, or serves.

A mutant is made of a small GGUF and a seed. All are read and judged in this process
(`check_model`), with the largest allocation measured. Those that pass are given to llama.cpp in
forked processes, many to one: loaded, tokenized with, computed with, as a server would. A process
that ends there is counted as a death, and its seed printed.

    python benchmarks/gguf_mutations.py tiny.gguf --count 10000
    python benchmarks/gguf_mutations.py tiny.gguf --make 4711 mutant.gguf

Where a death is found, a trial in a child (tuneserve.llama.trial) still turns it into an error; the
rule that would have refused the file belongs into tuneserve/gguf/.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from tuneserve.errors import TuneserveError
from tuneserve.gguf.parts import open_whole
from tuneserve.gguf.reader import ARRAY, SCALARS, STRING
from tuneserve.gguf.validation import check_model

SHORT = 2000
"""Bytes of an entry up to which it is no list of a vocabulary: changes there hit sizes and ids."""
ODD = (0, 1, 2, 7, 255, 49153, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
ODD_FLOATS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
SECONDS = 60


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


def use(path: Path) -> None:
    """What a server does with a model."""
    from tuneserve.llama import LlamaContext, LlamaModel
    from tuneserve.llama.trial_child import use as use_model

    with LlamaModel(path, tried=True) as model:
        use_model(model, compute=True)
        _ = model.end_tokens, model.control_texts
        ids = model.tokenize("Hello there, world 123 <|im_end|> \u00e9\u4f60")
        with LlamaContext(model, n_ctx=64, threads=1) as context:
            context.logits(ids[:48] or [0], start=0)


def run_many(files: list[tuple[int, Path]]) -> Iterator[tuple[int, str]]:
    """(seed, outcome) of each file, used in forked processes: a new one behind each death."""
    left = list(files)
    while left:
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            _be_child(left, writing)
        os.close(writing)
        with os.fdopen(reading) as lines:
            outcomes = [line.rstrip("\n") for line in lines]
        _, status = os.waitpid(process, 0)
        yield from zip([seed for seed, _ in left], outcomes, strict=False)
        if os.WIFSIGNALED(status) and len(outcomes) < len(left):
            yield left[len(outcomes)][0], f"died: {signal.Signals(os.WTERMSIG(status)).name}"
            outcomes.append("")
        left = left[len(outcomes) :]


def _be_child(files: list[tuple[int, Path]], writing: int) -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    for _, path in files:
        signal.alarm(SECONDS)
        try:
            use(path)
            outcome = "serves"
        except TuneserveError:
            outcome = "refused by llama.cpp"
        except Exception as error:
            outcome = f"traceback: {error!r}".replace("\n", " ")[:200]
        os.write(writing, f"{outcome}\n".encode())
    os._exit(0)


def judge(path: Path) -> str:
    """'' where the file passes."""
    try:
        check_model(open_whole(path))
    except TuneserveError:
        return "refused by tuneserve"
    except Exception:
        return f"traceback: {traceback.format_exc(limit=-1)}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--make", nargs=2, metavar=("SEED", "OUT"))
    parser.add_argument("--no-load", action="store_true", help="only tuneserve's own reading")
    args = parser.parse_args()
    data = args.model.read_bytes()
    if args.make:
        Path(args.make[1]).write_bytes(mutate(data, int(args.make[0])))
        return
    tally: collections.Counter[str] = collections.Counter()
    largest, started = 0.0, time.perf_counter()
    tracemalloc.start()
    judge(args.model)  # what is imported at the first call is no allocation for a file
    with tempfile.TemporaryDirectory() as folder:
        passed: list[tuple[int, Path]] = []
        for seed in range(args.first, args.first + args.count):
            path = Path(folder) / f"{seed}.gguf"
            mutant = mutate(data, seed)
            path.write_bytes(mutant)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            found = judge(path)
            share = (tracemalloc.get_traced_memory()[1] - before) / max(len(mutant), 1 << 16)
            largest = max(largest, share)
            if found:
                tally[found.partition(":")[0]] += 1
                path.unlink()
            else:
                passed.append((seed, path))
            if found.startswith("traceback"):
                print(f"seed {seed}: {found}", flush=True)
            if len(passed) >= 250 or seed == args.first + args.count - 1:
                for number, outcome in run_many([] if args.no_load else passed):
                    tally[outcome.partition(":")[0]] += 1
                    if outcome.startswith(("died", "traceback")):
                        print(f"seed {number}: {outcome}", flush=True)
                for _, path in passed:
                    path.unlink()
                passed = []
    for name, count in tally.most_common():
        print(f"{count:6} {name}")
    print(f"largest allocation of the reading: {largest:.2f} of the file")
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(any(name in tally for name in ("died", "traceback")))


if __name__ == "__main__":
    main()
