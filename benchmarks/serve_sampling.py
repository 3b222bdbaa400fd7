"""How long the tokens of a step take to draw, by kind of sampling, rows and vocabulary.

    python benchmarks/serve_sampling.py model.gguf [--threads 4] [--vocabularies 49152]

Peaked rows are a real model's logits after the tokens of a text; a larger vocabulary is filled up
with tokens like the less probable half of the real ones. Flat rows are noise. A step is as the
engine does it: every row has its own request. The figure is µs a row in the median of many steps:
of one thread the time on a core, which other processes hardly change, else of a clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.llama import LlamaContext, LlamaModel
from tuneserve.serve.engine.request import Generation, Request
from tuneserve.serve.engine.rows import RowDrawer
from tuneserve.serve.engine.sampling import TokenSampler
from tuneserve.serve.engine.types import SamplingParams
from tuneserve.serve.engine.weights import Row

TEXT = (
    "The first railway in the town was opened in 1846. It ran from the harbour to the mills, and "
    "for twenty years it carried little but wool. When the mills closed, people began to ask what "
    "to do with"
)
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {},
    "0.7, top_p 0.95": {"temperature": 0.7, "top_p": 0.95},
    "1, top_p 0.95": {"top_p": 0.95},
    "0.7, top_k 40, top_p 0.9": {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    "0.7, min_p 0.05": {"temperature": 0.7, "min_p": 0.05},
    "0.7, penalties": {"temperature": 0.7, "frequency_penalty": 0.3, "repeat_penalty": 1.1},
    "0.7, logit_bias": {"temperature": 0.7, "logit_bias": dict.fromkeys(range(100, 150), -100.0)},
    "greedy, logprobs 5": {"temperature": 0.0, "logprobs": 5},
}


def peaked_rows(model: LlamaModel, count: int, vocabulary: int) -> Row:
    """[count, vocabulary]; a real model's, see above."""
    tokens = model.tokenize(TEXT)[:count]
    with LlamaContext(model, n_ctx=256, n_outputs_max=256) as context:
        real = context.logits(tokens)
    rows = real[np.arange(count) % len(real), : min(vocabulary, model.n_vocab)]
    more = vocabulary - rows.shape[1]
    if more > 0:
        noise = np.random.default_rng(1)
        half = np.sort(rows, axis=1)[:, : rows.shape[1] // 2]
        picks = noise.integers(0, half.shape[1], (count, more))
        rest = np.take_along_axis(half, picks, axis=1) + noise.normal(0, 0.1, picks.shape)
        rows = np.concatenate((rows, rest), axis=1)
    return np.ascontiguousarray(rows, np.float32)


def flat_rows(count: int, vocabulary: int) -> Row:
    return np.random.default_rng(2).normal(0, 1, (count, vocabulary)).astype(np.float32)


def median(step: Callable[[], object], clock: Callable[[], float], seconds: float) -> float:
    """Seconds of a call."""
    step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = clock()
        step()
        times.append(clock() - started)
    return float(np.median(times))


def measure(model: LlamaModel, rows: Row, kind: dict[str, Any], threads: int) -> float:
    """µs a row in a step of all rows."""
    params = SamplingParams(seed=1, **kind)
    requests = [Request([0], params, Generation(), limit=1 << 30) for _ in rows]
    for request in requests:
        request.sampler = TokenSampler(model, params)
        for _ in range(64):  # an answer so far, for penalties to count
            request.sampler.sample(rows[0])
    drawer = RowDrawer(model, threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = median(lambda: drawer.draw(requests, rows), clock, 0.15)
    drawer.close()
    return seconds / len(rows) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[49_152, 128_256, 262_144])
    args = parser.parse_args()
    with LlamaModel(args.model) as model:
        for vocabulary in args.vocabularies:
            for shape in ("peaked", "flat"):
                print(f"\nvocabulary {vocabulary:,}, {shape}: µs a row in a step of N rows")
                print(f"{'':26}" + "".join(f"{count:>8}" for count in args.rows))
                most = max(args.rows)
                rows = (
                    peaked_rows(model, most, vocabulary)
                    if shape == "peaked"
                    else flat_rows(most, vocabulary)
                )
                for name, kind in KINDS.items():
                    figures = [measure(model, rows[:n], kind, args.threads) for n in args.rows]
                    print(
                        f"{name:26}" + "".join(f"{figure:8.0f}" for figure in figures), flush=True
                    )


if __name__ == "__main__":
    main()
