"""Damaged GGUFs by the thousand: each is refused by tuneserve, refused by llama.cpp, or serves.

A mutant is made of a small GGUF and a seed. All are read and judged in this process
(`check_model`), with the largest allocation measured. Those that pass are given to llama.cpp in
forked processes, many to one: loaded, tokenized with, computed with, as a server would. A process
that ends there is counted as a death, and its seed printed.

    python benchmarks/gguf_mutations.py tiny.gguf --count 10000
    python benchmarks/gguf_mutations.py adapter.gguf --base base.gguf --count 1000
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
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from tests.gguf.mutations import mutate
from tuneserve.errors import TuneserveError
from tuneserve.gguf.lora import AdapterBase, check_adapter
from tuneserve.gguf.parts import open_whole
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.validation import check_model

SECONDS = 60


def use_adapter_on(base: Path, path: Path) -> None:
    """What a server does with an adapter."""
    from tuneserve.llama import LlamaContext, LlamaModel
    from tuneserve.llama.lora import free_adapter, load_adapter, use_adapter

    with LlamaModel(base, tried=True) as model:
        adapter = load_adapter(model, path)
        with LlamaContext(model, n_ctx=64, threads=1) as context:
            use_adapter(context, adapter)
            context.logits(model.tokenize("Hello there, world 123"), start=0)
            use_adapter(context, None)
        free_adapter(adapter)


def use(path: Path) -> None:
    """What a server does with a model."""
    from tuneserve.llama import LlamaContext, LlamaModel
    from tuneserve.llama.trial_child import use as use_model

    with LlamaModel(path, tried=True) as model:
        use_model(model, threads=1)
        _ = model.end_tokens, model.control_texts
        ids = model.tokenize("Hello there, world 123 <|im_end|> \u00e9\u4f60")
        with LlamaContext(model, n_ctx=64, threads=1) as context:
            context.logits(ids[:48] or [0], start=0)


def run_many(files: list[tuple[int, Path]], base: Path | None) -> Iterator[tuple[int, str]]:
    """(seed, outcome) of each file, used in forked processes: a new one behind each death."""
    left = list(files)
    while left:
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            _be_child(left, writing, base)
        os.close(writing)
        with os.fdopen(reading) as lines:
            outcomes = [line.rstrip("\n") for line in lines]
        _, status = os.waitpid(process, 0)
        yield from zip([seed for seed, _ in left], outcomes, strict=False)
        if os.WIFSIGNALED(status) and len(outcomes) < len(left):
            yield left[len(outcomes)][0], f"died: {signal.Signals(os.WTERMSIG(status)).name}"
            outcomes.append("")
        left = left[len(outcomes) :]


def _be_child(files: list[tuple[int, Path]], writing: int, base: Path | None) -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    for _, path in files:
        signal.alarm(SECONDS)
        try:
            use(path) if base is None else use_adapter_on(base, path)
            outcome = "serves"
        except TuneserveError:
            outcome = "refused by llama.cpp"
        except Exception as error:
            outcome = f"traceback: {error!r}".replace("\n", " ")[:200]
        os.write(writing, f"{outcome}\n".encode())
    os._exit(0)


def judge(path: Path, base: Path | None) -> str:
    """'' where the file passes."""
    try:
        if base is None:
            check_model(open_whole(path))
        else:
            check_adapter(GGUFFile(path), AdapterBase.read(base), where=str(path))
    except TuneserveError:
        return "refused by tuneserve"
    except Exception:
        return f"traceback: {traceback.format_exc(limit=-1)}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--base", type=Path, help="MODEL is an adapter, to be put on this one")
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
    judge(args.model, args.base)  # what is imported at the first call is no allocation for a file
    with tempfile.TemporaryDirectory() as folder:
        passed: list[tuple[int, Path]] = []
        for seed in range(args.first, args.first + args.count):
            path = Path(folder) / f"{seed}.gguf"
            mutant = mutate(data, seed)
            path.write_bytes(mutant)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            found = judge(path, args.base)
            share = (tracemalloc.get_traced_memory()[1] - before) / max(len(mutant), 1 << 16)
            largest = max(largest, share)
            if share > 2:
                print(f"seed {seed}: allocates {share:.2f} of the file", flush=True)
            if found:
                tally[found.partition(":")[0]] += 1
                path.unlink()
            else:
                passed.append((seed, path))
            if found.startswith("traceback"):
                print(f"seed {seed}: {found}", flush=True)
            if len(passed) >= 250 or seed == args.first + args.count - 1:
                for number, outcome in run_many([] if args.no_load else passed, args.base):
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
