"""What the server's caches are worth: the prefix cache in time, the KV cache type in memory and
perplexity.

1. Time to first token of a request with 1,500 tokens of common beginning: first, again with
   another ending, and again after other requests have driven the beginning out of the KV cache
   into RAM; best and median of several, each with a beginning of its own. And by another engine,
   started after that one has ended, from disk.
2. For each KV cache type: bytes of the KV cache of 8,192 tokens (the process's growth on making a
   context), and perplexity on a text of chunks of 512 tokens, with its standard error.

    python benchmarks/serve_cache.py model.gguf text.txt --threads 2

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PREFIX = 1500
CONTEXT = 8192


def first_token_times(model: Path, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds to the first token, by how much of the prompt is there already."""
    from tuneserve.serve.engine import Engine, SamplingParams
    from tuneserve.settings import ServeSettings

    draw = random.Random(0)
    found: dict[str, list[float]] = {"first": [], "again": [], "from RAM": [], "from disk": []}
    one = SamplingParams(temperature=0.0, max_tokens=1)
    folder = tempfile.TemporaryDirectory(prefix="prefixes-")
    settings = ServeSettings(
        ctx=4096, slots=2, threads=threads, prefix_share=1.0, prefix_disk="4G",
        prefix_directory=Path(folder.name),
    )  # fmt: skip
    prefixes = []
    with Engine(model, settings) as engine:

        def tokens(count: int) -> list[int]:
            return [draw.randrange(100, engine.model.n_vocab) for _ in range(count)]

        def seconds(prompt: list[int], cached: int) -> float:
            (done,) = engine.generate([prompt], one)
            assert abs(done.cached_tokens - cached) <= 1, (done.cached_tokens, cached)
            return done.timings.queue + done.timings.prompt

        engine.generate([tokens(64)], one)
        for _ in range(repeats):
            prefix = tokens(PREFIX)
            prefixes.append(prefix)
            found["first"].append(seconds(prefix + tokens(32), 0))
            found["again"].append(seconds(prefix + tokens(32), PREFIX))
            engine.generate([tokens(2000), tokens(2000)], one)
            found["from RAM"].append(seconds(prefix + tokens(32), PREFIX))
    with folder, Engine(model, settings) as engine:
        engine.generate([tokens(64)], one)
        for prefix in prefixes:
            found["from disk"].append(seconds(prefix + tokens(32), PREFIX))
    return {
        name: {"median": round(statistics.median(times), 3), "best": round(min(times), 3)}
        for name, times in found.items()
    }


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def cache_types(
    model: Path, text: Path, names: list[str], threads: int, chunks: int
) -> dict[str, Any]:
    """Memory and perplexity of each KV cache type, keys and values alike."""
    from tuneserve.bench.measure import perplexity
    from tuneserve.llama import LlamaModel, served_context
    from tuneserve.settings import ServeSettings

    found = {}
    with LlamaModel(model) as loaded:
        ids = perplexity.chunked(loaded, perplexity.read_corpus(text))[:chunks]
        for name in names:
            settings = ServeSettings(
                ctx=CONTEXT, cache_type_k=name, cache_type_v=name, threads=threads, batch=32,
                micro_batch=32,
            )  # fmt: skip
            before = resident_bytes()
            context = served_context(
                loaded, settings, n_ctx=settings.ctx, n_batch=settings.batch, n_seq_max=2,
                n_outputs_max=2,
            )  # fmt: skip
            grown = resident_bytes() - before
            context.close()
            whole = settings.model_copy(update={"micro_batch": perplexity.CHUNK_TOKENS})
            with perplexity.perplexity_context(loaded, whole) as scoring:
                value = perplexity.summarise_perplexity(perplexity.text_nll(scoring, ids))
            found[name] = {
                "MiB": round(grown / 2**20, 1),
                "perplexity": round(value.perplexity.value, 4),
                "standard error": round(value.perplexity.error, 4),
            }
            print(f"{name:6} {found[name]}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=20, help="chunks of 512 tokens of the text")
    parser.add_argument("--types", nargs="+", default=["f16", "q8_0", "q4_0"])
    arguments = parser.parse_args()
    times = first_token_times(arguments.model, arguments.threads, arguments.repeats)
    for name, figures in times.items():
        print(f"{name:9} first token after {figures['median']:.3f} s (best {figures['best']:.3f})")
    types = cache_types(
        arguments.model, arguments.text, arguments.types, arguments.threads, arguments.chunks
    )
    print(json.dumps({"first token": times, "cache types": types}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
