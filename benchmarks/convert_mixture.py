"""What does a type for each tensor gain over Q4_K_M at the same size?

Takes a trained run, chooses types on its eval and training examples as `quantization = "auto"`
does, and compares Q4_K_M without and with the importance matrix and the mix with the F16 model on
the test split, which nothing was chosen by: KL divergence from F16 in nats over the answers (mean,
99 % quantile of examples) and over whole conversations, perplexity and accuracy of the answers.

    python benchmarks/convert_mixture.py runs/sentiment --work /tmp/mixture
    python benchmarks/convert_mixture.py runs/sentiment --work /tmp/mixture --limit 100% 80%

Prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from convert_imatrix import measure, summary

from tuneserve.chat.examples import read_split
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.mixture import choose_mix
from tuneserve.convert.quantize import measure_importance, write_quantized
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings


def make_mix(
    options: argparse.Namespace,
    model: GGUFModel,
    base: GGUFModel,
    matrix: ImportanceMatrix,
    limit: str,
) -> tuple[Path, dict[str, Any]]:
    """The model in types chosen within `limit`, and what the choice took."""
    settings = ConvertSettings(
        quantization="auto", size_limit=limit, mix_tokens=options.mix_tokens,
        mix_tries=options.mix_tries,
    )  # fmt: skip
    started, used = time.perf_counter(), time.process_time()
    run, f16 = RunDirectory(options.run), options.work / "f16.gguf"
    mix = choose_mix(f16, model, base, run, matrix, settings, threads=options.threads)
    took = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}
    path: Path = options.work / f"auto-{limit.strip('%')}.gguf"
    model.mix = mix.types
    write_quantized(
        model, path, "auto", threads=options.threads, matrix=matrix, matrix_file="m"
    )  # fmt: skip
    by_role: dict[str, Counter[str]] = {}
    for name, kind in mix.types.items():
        role = name.split(".", 2)[2] if name.startswith("blk.") else name
        by_role.setdefault(role, Counter())[kind] += 1
    for role, kinds in by_role.items():
        print(f"  {role}: {dict(kinds)}")
    return path, took | {"passes": mix.passes, "divergence": mix.divergence}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a trained run's directory")
    parser.add_argument("--work", type=Path, required=True, help="folder for the GGUFs made here")
    parser.add_argument("--limit", nargs="*", default=["100%"], help="sizes of mixes")
    parser.add_argument("--examples", type=int, default=1000, help="test examples at most")
    parser.add_argument("--imatrix-tokens", type=int, default=16_384)
    parser.add_argument("--mix-tokens", type=int, default=2048)
    parser.add_argument("--mix-tries", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    run = RunDirectory(options.run)
    base = Path(run.require_stage("train", TrainOutput).base.path)
    model = GGUFModel(MergedCheckpoint(base, Adapter(run.adapter)), run.adapter, name=run.name)
    base_model = GGUFModel(MergedCheckpoint(base), run.adapter, name="base")
    f16, plain, weighted = (options.work / f"{name}.gguf" for name in ("f16", "plain", "weighted"))
    threads = options.threads
    write_quantized(model, f16, "F16", threads=threads)
    matrix = measure_importance(f16, run, options.imatrix_tokens, threads=threads)
    write_quantized(model, plain, "Q4_K_M", threads=threads)
    write_quantized(model, weighted, "Q4_K_M", threads=threads, matrix=matrix, matrix_file="m")
    files = {"F16": f16, "Q4_K_M": plain, "Q4_K_M, imatrix": weighted}
    searches = {}
    for limit in options.limit:
        name = f"auto, {limit}"
        files[name], searches[name] = make_mix(options, model, base_model, matrix, limit)

    examples = read_split(run.split("test"), limit=options.examples)
    with LlamaModel(f16) as reference:
        others = [LlamaModel(path) for path in list(files.values())[1:]]
        scores, answer_tokens = measure(reference, others, examples, threads)
    print(f"{len(examples)} examples, {answer_tokens} answer tokens")
    print(
        f"{'':>16} {'bytes':>12} {'KLD answers':>12} {'99 %':>8} {'all':>8} {'PPL':>8} "
        f"{'right':>7}  less than imatrix (95 %)"
    )
    result: dict[str, Any] = {"searches": searches, "models": {}}
    for (name, path), score in zip(files.items(), scores, strict=True):
        row = summary(score, scores[2], answer_tokens)
        row["bytes"] = path.stat().st_size
        row["answer_kld_99"] = float(np.quantile(score.answer_kld, 0.99))
        result["models"][name] = row
        gain, half = row["answer_kld_gain"]
        print(
            f"{name:>16} {row['bytes']:12,} {row['answer_kld']:12.5f} {row['answer_kld_99']:8.4f} "
            f"{row['all_kld']:8.5f} {row['perplexity']:8.4f} {100 * row['accuracy']:6.1f}% "
            f"{gain:+9.5f} ± {half:.5f}"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
