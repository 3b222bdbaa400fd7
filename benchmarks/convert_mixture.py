"""What does a type for each tensor gain over Q4_K_M at the same size?

Takes a run that `tuneserve convert --quantization auto` has converted, makes Q4_K_M without and
with the run's importance matrix by llama.cpp's own quantizer, and compares these and the run's file
with the F16 model on the test split, which nothing was chosen by: KL divergence from F16 in nats
over the answers (mean and 99 % quantile of examples), perplexity of the answers, how many are right
(every token the likeliest), and of how many every likeliest token is F16's.

    tuneserve convert --run sentiment --quantization auto
    python benchmarks/convert_mixture.py runs/sentiment --work /tmp/mixture

Prints a table; the last line is JSON. What is done is kept in --work: after --seconds it stops, and
called again it goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from convert_imatrix import interval

from tuneserve.arrays import Ids
from tuneserve.chat.examples import sample_split
from tuneserve.chat.prompt import GGUFTokenizer, encode, template_of
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import AUTO, MIXTURES
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.mixture.answers import LONGEST, Answer
from tuneserve.convert.mixture.trial import answer_logits
from tuneserve.convert.plan import plan_of
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.result import ConvertResult, Mix
from tuneserve.convert.verify.logits import make_context
from tuneserve.divergence import log_softmax
from tuneserve.files import atomic_path
from tuneserve.llama import LlamaModel
from tuneserve.llama.quantizer import quantize_gguf
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

SLICE = 16  # examples that are measured and kept together


@dataclass
class Score:
    """Of one model: of each example the mean divergence, the sum of the answer's nll, whether it is
    right, and whether it is as the first model's."""

    kld: list[float] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)


def make_files(run: RunDirectory, work: Path, threads: int) -> dict[str, Path]:
    """The models that are compared, by name, F16 first; what is there already is kept."""
    f16, plain, weighted = (work / f"{name}.gguf" for name in ("f16", "plain", "weighted"))
    plan = plan_of(run, ConvertSettings())
    if not f16.exists():
        merged = MergedCheckpoint(plan.base_checkpoint, Adapter(run.adapter))
        with atomic_path(f16) as made:
            write_quantized(
                GGUFModel(merged, run.adapter, name=run.name), made, "F16", threads=threads
            )
    for path, imatrix in ((plain, None), (weighted, plan.imatrix)):
        if not path.exists():
            with atomic_path(path) as made:
                quantize_gguf(
                    f16, made, MIXTURES["Q4_K_M"].file_type, threads=threads, imatrix=imatrix
                )
    auto = run.tuned_gguf(AUTO)
    return {"F16": f16, "Q4_K_M": plain, "Q4_K_M, imatrix": weighted, "auto": auto}


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
    models: Sequence[LlamaModel],
    scores: Sequence[Score],
    answers: list[Answer],
    golds: list[Ids],
    threads: int,
) -> None:
    """Add to the models' scores, beside the first of them."""
    longest = max(len(answer.ids) for answer in answers)
    contexts = [make_context(model, longest, threads=threads) for model in models]
    for gold, *rows in zip(golds, *(answer_logits(c, answers) for c in contexts), strict=True):
        reference = log_softmax(rows[0])
        for score, logits in zip(scores, rows, strict=True):
            found = log_softmax(logits)
            score.kld.append(float((np.exp(reference) * (reference - found)).sum(axis=-1).mean()))
            score.nll.append(float(-found[np.arange(len(gold)), gold].sum()))
            top = found.argmax(axis=-1)
            score.right.append(bool((top == gold).all()))
            score.same.append(bool((top == reference.argmax(axis=-1)).all()))
    for context in contexts:
        context.close()


def show_mix(result: ConvertResult, mix: Mix) -> None:
    """How long the conversion took, and the types by role."""
    laps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    print(
        f"conversion: {laps}; {mix.passes} passes, {mix.divergence:.5f} nats on the choosing "
        f"answers, Q4_K_M with matrix {mix.baseline_divergence:.5f}"
    )
    by_role: dict[str, Counter[str]] = {}
    for name, kind in mix.types.items():
        role = name.split(".", 2)[2] if name.startswith("blk.") else name
        by_role.setdefault(role, Counter())[kind] += 1
    for role, kinds in by_role.items():
        print(f"  {role}: {dict(kinds)}")


def show_scores(files: dict[str, Path], scores: Sequence[Score], tokens: int) -> dict[str, Any]:
    """The table; returns its figures."""
    print(f"{len(scores[0].kld)} test examples, {tokens} answer tokens")
    print(
        f"{'':>16} {'bytes':>12} {'KLD':>8} {'99 %':>8} {'PPL':>8} {'right':>7} {'as F16':>7}  "
        "less KLD than imatrix (95 %)"
    )
    rows = {}
    weighted = np.asarray(scores[2].kld)
    for (name, path), score in zip(files.items(), scores, strict=True):
        kld = np.asarray(score.kld)
        gain, half = interval(weighted - kld)
        row = {
            "bytes": path.stat().st_size, "kld": float(kld.mean()),
            "kld_99": float(np.quantile(kld, 0.99)), "gain": [gain, half],
            "perplexity": float(np.exp(sum(score.nll) / tokens)),
            "right": float(np.mean(score.right)), "same": float(np.mean(score.same)),
        }  # fmt: skip
        rows[name] = row
        print(
            f"{name:>16} {row['bytes']:12,} {row['kld']:8.5f} {row['kld_99']:8.4f} "
            f"{row['perplexity']:8.4f} {100 * np.mean(score.right):6.1f}% "
            f"{100 * np.mean(score.same):6.1f}%  {gain:+9.5f} ± {half:.5f}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="directory of a run converted to auto")
    parser.add_argument("--judge", type=Path, nargs="*", default=[], help="GGUFs to judge too")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made here")
    parser.add_argument("--examples", type=int, default=1000, help="test examples at most")
    parser.add_argument("--seconds", type=float, default=150, help="stop after so long")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)

    run = RunDirectory(options.run)
    result = run.require_stage("convert", ConvertResult)
    if result.mix is None:
        parser.error(f"{options.run} is not converted: tuneserve convert --quantization auto")
    files = make_files(run, options.work, options.threads)
    files |= {path.stem: path for path in options.judge}
    models = [LlamaModel(path) for path in files.values()]
    answers, golds = held_out(models[0], run, options.examples)

    # By file: a file that is made again is measured again.
    kept = options.work / "scores.json"
    keys = [f"{path} {path.stat().st_mtime_ns}" for path in files.values()]
    known = json.loads(kept.read_text()) if kept.exists() else {}
    scores = [Score(**known["scores"][n]) for n in range(len(keys)) if known.get("files") == keys]
    scores = scores or [Score() for _ in keys]
    while (done := len(scores[0].kld)) < len(answers):
        if time.monotonic() - started > options.seconds:
            print(f"{done} of {len(answers)} examples are measured: call again")
            return
        part = slice(done, done + SLICE)
        measure(models, scores, answers[part], golds[part], options.threads)
        kept.write_text(json.dumps({"files": keys, "scores": list(map(asdict, scores))}))

    show_mix(result, result.mix)
    rows = show_scores(files, scores, sum(map(len, golds[: len(scores[0].kld)])))
    print(json.dumps({"seconds": result.seconds, "passes": result.mix.passes, "models": rows}))


if __name__ == "__main__":
    main()
