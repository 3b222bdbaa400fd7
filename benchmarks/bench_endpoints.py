"""Does the benchmark find the same accuracy whoever serves the model: in process, by `tuneserve
serve`, by llama-server?

The run's tuned model answers the held-out prompts in process, once more in another order (what
differs is chance: the noise floor), and through both servers as `tuneserve bench --endpoint` asks
them. Each is compared with the first, prompt by prompt; the exact McNemar tests are
Holm-adjusted. Wanted: no difference shown, and none larger than the noise floor by more than
chance.

    python benchmarks/bench_endpoints.py --run sentiment --peer build/bin/llama-server [--limit 200]

Prints a line for each, then one line of JSON; exits with 1 if a difference is shown.
"""

from __future__ import annotations

import argparse
import json
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.answers import read_responses
from tuneserve.bench.job import BenchmarkJob, prepare
from tuneserve.bench.measure.answers import generate_answers, measure_noise_floor
from tuneserve.bench.measure.clients import served
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.measure import measure_endpoint
from tuneserve.bench.measure.work import ENDPOINT, NOISE_FLOOR
from tuneserve.bench.stats import significance
from tuneserve.bench.stats.bootstrap import FloatArray
from tuneserve.convert.result import ConvertOutput
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe, ServeSettings


@contextmanager
def llama_server(peer: Path, model: Path, serve: ServeSettings, slots: int) -> Iterator[str]:
    """URL of llama.cpp's server with the same KV cache, slots and context."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = shlex.split(
        f"{peer} -m {model} --port {port} -c {serve.ctx} -np {slots} -kvu -fa on --jinja "
        f"-ctk {serve.cache_type_k} -ctv {serve.cache_type_v} -ngl {max(0, serve.gpu_layers)}"
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def scores_of(job: BenchmarkJob, journal: Journal, name: str) -> FloatArray:
    return analysis.scores_of(read_responses(journal, name, job.asked))


def answered_by(job: BenchmarkJob, url: str, folder: Path, name: str) -> Any:
    """Scores of the model behind a URL, asked as --endpoint does."""
    settings = job.settings.model_copy(update={"endpoint": f"{url}/v1"})
    with Journal(folder / f"{name}.jsonl", name) as journal:
        measure_endpoint(job.asked.encoded, settings, journal)
        return scores_of(job, journal, ENDPOINT)


def all_scores(job: BenchmarkJob, peer: Path, folder: Path) -> dict[str, Any]:
    settings = job.settings
    tuned = job.contenders["tuned"]
    serve = tuned.serve.model_copy(update={"ctx": settings.ctx * settings.parallel, "port": 0})
    with Journal(folder / "here.jsonl", "here") as journal:
        generate_answers(tuned, job.own_workload.requests, journal)
        measure_noise_floor(tuned, job.own_workload.requests, journal)
        found = {
            "in process": scores_of(job, journal, "tuned"),
            "in process again": scores_of(job, journal, NOISE_FLOOR),
        }
    with served(tuned.path, serve) as server:
        found["tuneserve serve"] = answered_by(job, server.url, folder, "ours")
    with llama_server(peer, tuned.path, serve, settings.parallel) as url:
        found["llama-server"] = answered_by(job, url, folder, "peer")
    return found


def compare(job: BenchmarkJob, found: dict[str, Any]) -> list[dict[str, Any]]:
    first = found["in process"]
    sources = [example.source for example in job.asked.task.examples]
    bootstrap = analysis.bootstrap_of(sources, job.settings)
    names = [name for name in found if name != "in process"]
    compared = [analysis.compare_scores(found[n], first, bootstrap) for n in names]
    adjusted = significance.holm([one.p for one in compared])
    return [
        {
            "server": name,
            "accuracy": round(one.tuned.value, 4),
            "in process": round(one.base.value, 4),
            "won": one.won,
            "lost": one.lost,
            "p": round(p, 4),
            "outcome": analysis.decide(one, p, job.settings.confidence),
        }
        for name, one, p in zip(names, compared, adjusted, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--peer", type=Path, required=True, help="llama-server")
    parser.add_argument("--limit", type=int, default=0)
    options = parser.parse_args()
    run = RunDirectory.named(options.run).require()
    recipe = Recipe.model_validate(run.saved_settings())
    changes = {"limit": options.limit, "general": 0, "tasks": (), "texts": ()}
    recipe = recipe.model_copy(update={"bench": recipe.bench.model_copy(update=changes)})
    job = prepare(run, recipe, run.require_stage("convert", ConvertOutput))
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(job, all_scores(job, options.peer, Path(folder)))
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    good = all(row["outcome"] == "no difference shown" for row in rows)
    print(
        json.dumps({"run": run.name, "prompts": len(job.asked.encoded), "good": good, "rows": rows})
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
