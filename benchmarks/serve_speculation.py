"""What speculation is worth: tokens per second with `--speculate` auto and off, in one run.

Two kinds of questions, each by one client and by several at once:
- extraction: records in the prompt that the answer repeats (as answers that quote,
  edit or reformat their prompt do);
- chat: a short question, and a free answer.

The engines take turns, so that a machine that changes its pace does so for both. Besides wall time
the process's processor time is told, which other work on the machine disturbs least.

    python benchmarks/serve_speculation.py model.gguf --threads 2

With `--draft small.gguf` a third engine has that draft model too. Greedy answers are compared with
those of the engine that speculates nothing: rounding makes a few differ.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import prompt_ids  # noqa: E402
from tuneserve.llama import LlamaModel  # noqa: E402
from tuneserve.serve.engine import Engine, SamplingParams  # noqa: E402
from tuneserve.settings import ServeSettings  # noqa: E402

NAMES = (
    "Alice", "Benjamin", "Clara", "Daniel", "Elena", "Frank", "Greta", "Henry", "Isabel", "Jacob",
    "Karen", "Liam", "Maria", "Nathan", "Olivia", "Peter", "Quentin", "Rosa", "Samuel", "Teresa",
)  # fmt: skip
CITIES = ("Lisbon", "Oslo", "Vienna", "Dublin", "Prague", "Athens", "Berlin", "Madrid", "Rome")
SUBJECTS = (
    "the sea", "a lighthouse", "the moon", "an old clock", "a river", "the desert", "a train",
    "a garden", "the winter", "a violin", "a mountain", "the city at night", "a letter", "a storm",
)  # fmt: skip


def extraction(model: LlamaModel, draw: random.Random) -> list[int]:
    """Twelve records, and the first line of their copy: the form in which a small model, too, goes
    on copying."""
    lines = [
        json.dumps({"name": name, "age": draw.randrange(20, 70), "city": draw.choice(CITIES)})
        for name in draw.sample(NAMES, 12)
    ]
    return model.tokenize("Original:\n" + "\n".join(lines) + f"\n\nCopy:\n{lines[0]}\n")


def chat(model: LlamaModel, draw: random.Random) -> list[int]:
    question = f"Write a long story about {draw.choice(SUBJECTS)} and {draw.choice(SUBJECTS)}."
    return prompt_ids(model, [{"role": "user", "content": question}])


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    kinds = ("off", "auto", "draft") if arguments.draft else ("off", "auto")
    engines = {
        kind: Engine(
            arguments.model,
            ServeSettings(
                ctx=arguments.ctx, slots=max(arguments.clients), threads=arguments.threads,
                speculate="off" if kind == "off" else "auto", prefix_share=1.0,
                gpu_layers=arguments.gpu_layers, draft_gpu_layers=arguments.gpu_layers,
                draft=arguments.draft if kind == "draft" else None,
            ),
        )
        for kind in kinds
    }  # fmt: skip
    tasks = [task for task in (extraction, chat) if task.__name__ in arguments.tasks]
    found = []
    for make in tasks:
        for clients in arguments.clients:
            for temperature in arguments.temperatures:
                rates: dict[str, list[float]] = {kind: [] for kind in kinds}
                costs: dict[str, list[float]] = {kind: [] for kind in kinds}
                before = {kind: engines[kind].stats() for kind in kinds}
                answers: dict[str, list[tuple[int, ...]]] = {kind: [] for kind in kinds}
                for turn in range(arguments.rounds):
                    sampling = SamplingParams(
                        temperature=temperature, top_p=0.95 if temperature else 1.0,
                        max_tokens=arguments.tokens,
                    )  # fmt: skip
                    for kind in kinds if turn % 2 else kinds[::-1]:
                        engine = engines[kind]
                        draw = random.Random(turn)
                        prompts = [make(engine.model, draw) for _ in range(clients)]
                        # The prompts are computed before: what is measured is generation.
                        engine.generate(prompts, SamplingParams(max_tokens=1))
                        started, used = time.monotonic(), time.process_time()
                        done = engine.generate(prompts, sampling)
                        answers[kind] += [one.tokens for one in done]
                        tokens = sum(len(one.tokens) for one in done)
                        rates[kind].append(tokens / (time.monotonic() - started))
                        costs[kind].append(1e3 * (time.process_time() - used) / tokens)
                one: dict[str, Any] = {
                    "task": make.__name__,
                    "clients": clients,
                    "temperature": temperature,
                }
                for kind in kinds:
                    one[f"{kind} tokens/s"] = round(statistics.median(rates[kind]), 1)
                    one[f"{kind} cpu ms/token"] = round(statistics.median(costs[kind]), 2)
                    if kind == "off":
                        continue
                    gains = (a / b for a, b in zip(rates[kind], rates["off"], strict=True))
                    one[f"{kind} gain"] = round(statistics.median(gains), 2)
                    after = engines[kind].stats()
                    for source, count in after.drafted.items():
                        right = after.accepted.get(source, 0)
                        right -= before[kind].accepted.get(source, 0)
                        drafted = count - before[kind].drafted.get(source, 0)
                        one[f"{kind} right of {source}"] = f"{right} of {drafted}"
                    if temperature == 0.0:
                        pairs = zip(answers[kind], answers["off"], strict=True)
                        same = sum(a == b for a, b in pairs)
                        one[f"{kind} same answers"] = f"{same} of {len(answers[kind])}"
                found.append(one)
                print(found[-1], flush=True)
    for engine in engines.values():
        engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--draft", type=Path, help="GGUF of a draft model")
    parser.add_argument("--ctx", type=int, default=16384)
    parser.add_argument("--tokens", type=int, default=192, help="of an answer at most")
    parser.add_argument("--tasks", nargs="+", default=["extraction", "chat"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
