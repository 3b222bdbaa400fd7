"""What does a type for each tensor gain over Q4_K_M at the same size?

Takes a trained run, chooses types on its eval and training examples as `quantization = "auto"`
does, and compares Q4_K_M without and with the importance matrix and the mix with the F16 model on
the test split, which nothing was chosen by: KL divergence from F16 in nats over the answers (mean
and 99 % quantile of examples), perplexity of the answers, and how many are right (every token the
likeliest).

    python benchmarks/convert_mixture.py runs/sentiment --work /tmp/mixture
    python benchmarks/convert_mixture.py runs/sentiment --work /tmp/mixture --limit 100% 80%

Prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from convert_imatrix import interval

from tuneserve.arrays import Ids
from tuneserve.chat.examples import sample_split
from tuneserve.chat.prompt import GGUFTokenizer, encode, template_of
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.mixture import choose_mix
from tuneserve.convert.mixture.answers import LONGEST, Answer
from tuneserve.convert.mixture.trial import answer_logits
from tuneserve.convert.quantize import measure_importance, write_quantized
from tuneserve.convert.verify.logits import make_context
from tuneserve.divergence import log_softmax
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
    print(
        f"{limit}: {mix.passes} passes in {took['seconds']:.0f} s, {mix.divergence:.5f} nats on "
        f"the choosing answers, Q4_K_M with matrix {mix.baseline_divergence:.5f}",
        flush=True,
    )
    by_role: dict[str, Counter[str]] = {}
    for name, kind in mix.types.items():
        role = name.split(".", 2)[2] if name.startswith("blk.") else name
        by_role.setdefault(role, Counter())[kind] += 1
    for role, kinds in by_role.items():
        print(f"  {role}: {dict(kinds)}")
    return path, took | {"passes": mix.passes, "divergence": mix.divergence}


@dataclass
class Score:
    """Of one model: of each example the mean divergence, the sum of the answer's nll, and whether
    it is right."""

    kld: list[float] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


def held_out(model: LlamaModel, run: RunDirectory, most: int) -> tuple[list[Answer], list[Ids]]:
    """Test examples and the ids of their answers; longer ones are left out."""
    tokenizer, template = GGUFTokenizer(model), template_of(model)
    answers, golds = [], []
    for example in sample_split(run.split("test")):
        found = encode(tokenizer, template, example, thoughts=run.thoughts, as_it_is=True)
        ids = found.prompt + found.answer
        if len(ids) > LONGEST or not found.answer:
            continue
        answers.append(Answer(ids[:-1], len(found.prompt) - 1))
        golds.append(np.asarray(found.answer))
        if len(answers) == most:
            break
    return answers, golds


def measure(
    models: Sequence[LlamaModel], answers: list[Answer], golds: list[Ids], threads: int
) -> list[Score]:
    """Scores of models, beside the first of them."""
    longest = max(len(answer.ids) for answer in answers)
    contexts = [make_context(model, longest, threads=threads) for model in models]
    scores = [Score() for _ in models]
    for gold, *rows in zip(golds, *(answer_logits(c, answers) for c in contexts), strict=True):
        reference = log_softmax(rows[0])
        for score, logits in zip(scores, rows, strict=True):
            found = log_softmax(logits)
            score.kld.append(float((np.exp(reference) * (reference - found)).sum(axis=-1).mean()))
            score.nll.append(float(-found[np.arange(len(gold)), gold].sum()))
            score.right.append(bool((found.argmax(axis=-1) == gold).all()))
    for context in contexts:
        context.close()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a trained run's directory")
    parser.add_argument("--judge", type=Path, nargs="*", default=[], help="GGUFs to judge too")
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

    files |= {path.stem: path for path in options.judge}
    models = [LlamaModel(path) for path in files.values()]
    answers, golds = held_out(models[0], run, options.examples)
    scores = measure(models, answers, golds, threads)
    tokens = sum(map(len, golds))
    print(f"{len(answers)} test examples, {tokens} answer tokens")
    print(
        f"{'':>16} {'bytes':>12} {'KLD':>8} {'99 %':>8} {'PPL':>8} {'right':>7}  "
        "less KLD than imatrix (95 %)"
    )
    result: dict[str, Any] = {"searches": searches, "models": {}}
    weighted_kld = np.asarray(scores[2].kld)
    for (name, path), score in zip(files.items(), scores, strict=True):
        kld = np.asarray(score.kld)
        gain, half = interval(weighted_kld - kld)
        row = {
            "bytes": path.stat().st_size, "kld": float(kld.mean()),
            "kld_99": float(np.quantile(kld, 0.99)), "gain": [gain, half],
            "perplexity": float(np.exp(sum(score.nll) / tokens)),
            "right": float(np.mean(score.right)),
        }  # fmt: skip
        result["models"][name] = row
        print(
            f"{name:>16} {row['bytes']:12,} {row['kld']:8.5f} {row['kld_99']:8.4f} "
            f"{row['perplexity']:8.4f} {100 * np.mean(score.right):6.1f}% {gain:+9.5f} ± {half:.5f}"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
