"""What is an importance matrix worth, and is ours llama-imatrix's?

Takes a finished run, quantizes its merged model without a matrix and with matrices of several
lengths (all measured on the run's training examples), and compares each with the F16 model on the
held-out examples, teacher-forced:

- perplexity and accuracy of the reference answers, end token included. An answer counts as right
  if every token of it is the likeliest, which is when greedy decoding would write exactly it;
- KL divergence from F16 in nats, over the answers and over all positions of the conversations.

    python benchmarks/convert_imatrix.py runs/sentiment --work /tmp/imatrix
    python benchmarks/convert_imatrix.py runs/sentiment --work /tmp/imatrix --tools build/bin

With --tools (a folder with llama-imatrix and llama-quantize), both are run on the same text, and
the files must be equal byte for byte. The tools load the libraries of the installed
llama-cpp-python, since other compiler flags round otherwise. Prints tables; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tuneserve.chat.examples import Example, read_split
from tuneserve.chat.prompt import encode_text, template_arguments, template_of
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.imatrix import (
    Importance,
    ImportanceMatrix,
    chunks_of,
    collect,
    training_chunks,
)
from tuneserve.convert.imatrix.matrix import COUNTS, SUMS
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.quantize import write_quantized
from tuneserve.divergence import log_softmax
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaContext, LlamaModel
from tuneserve.run import RunDirectory

LONGEST = 2048


@dataclass
class Score:
    """Of one model: per example, summed over its answer's tokens or averaged over positions."""

    nll: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    answer_kld: list[float] = field(default_factory=list)
    all_kld: list[float] = field(default_factory=list)


def measure(
    f16: LlamaModel, models: Sequence[LlamaModel], examples: Sequence[Example], threads: int
) -> tuple[list[Score], int]:
    """Scores of F16 and then of `models`, and the number of answer tokens."""
    contexts = [LlamaContext(m, n_ctx=LONGEST, threads=threads) for m in (f16, *models)]
    template = template_of(f16)
    scores = [Score() for _ in contexts]
    answer_tokens = 0
    for example in examples:
        arguments = template_arguments(template, example.prompt)
        prompt = encode_text(f16, template.render(add_generation_prompt=True, **arguments))
        text = template.render(example.messages)
        ids = encode_text(f16, text)[:LONGEST]
        start = len(prompt)
        end = next((i + 1 for i in range(start, len(ids)) if f16.is_end(ids[i])), len(ids))
        answer = np.asarray(ids[start:end])
        answer_tokens += len(answer)
        reference: npt.NDArray[np.float32] | None = None
        for context, score in zip(contexts, scores, strict=True):
            found = log_softmax(context.logits(ids[:end])).astype(np.float32)
            if reference is None:
                reference, likely = found, np.exp(found)
            klds = (likely * (reference - found)).sum(axis=-1, dtype=np.float64)
            on_answer = found[start - 1 : end - 1]
            score.nll.append(float(-on_answer[np.arange(len(answer)), answer].sum()))
            score.right.append(bool((on_answer.argmax(axis=-1) == answer).all()))
            score.answer_kld.append(float(klds[start - 1 : end - 1].mean()))
            score.all_kld.append(float(klds.mean()))
    for context in contexts:
        context.close()
    return scores, answer_tokens


def summary(score: Score, plain: Score, answer_tokens: int) -> dict[str, Any]:
    """Figures of one model; differences from `plain` with 95 % intervals over examples."""
    gain = np.asarray(plain.answer_kld) - np.asarray(score.answer_kld)
    all_gain = np.asarray(plain.all_kld) - np.asarray(score.all_kld)
    return {
        "perplexity": float(np.exp(sum(score.nll) / answer_tokens)),
        "accuracy": float(np.mean(score.right)),
        "answer_kld": float(np.mean(score.answer_kld)),
        "all_kld": float(np.mean(score.all_kld)),
        "answer_kld_gain": interval(gain),
        "all_kld_gain": interval(all_gain),
    }


def interval(values: Any) -> list[float]:
    """Mean and half the width of its 95 % interval."""
    return [float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))]


def with_matrix(
    options: argparse.Namespace, run: RunDirectory, model: GGUFModel, f16: LlamaModel, tokens: int
) -> Path:
    """The model quantized with a matrix of `tokens` training tokens; says how long both took."""
    started = time.perf_counter()
    chunks = training_chunks(f16, run.split("train"), tokens)
    matrix = collect(f16, chunks, threads=options.threads)
    collected = time.perf_counter()
    path: Path = options.work / f"{tokens}.gguf"
    write_quantized(
        model, path, options.quantization,
        threads=options.threads, matrix=matrix, matrix_file="m",
    )  # fmt: skip
    print(f"{tokens} tokens: collected in {collected - started:.1f} s, "
          f"quantized in {time.perf_counter() - collected:.1f} s", flush=True)  # fmt: skip
    return path


def compare_with_tools(options: argparse.Namespace, f16: Path, model: GGUFModel) -> dict[str, Any]:
    """llama-imatrix and llama-quantize on the same text: are the files equal?"""
    import llama_cpp

    libraries = str(Path(llama_cpp.__file__).parent / "lib")
    work, tools = options.work, options.tools.resolve()

    def tool(*command: str) -> None:
        subprocess.run(
            command, check=True, cwd=work, capture_output=True,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
        )  # fmt: skip

    with LlamaModel(f16) as loaded:
        template = template_of(loaded)
        run = RunDirectory(options.run)
        text = "".join(
            template.render(example.messages)
            for example in read_split(run.split("train"), limit=30)
        )
        (work / "text.txt").write_text(text)
        ids = loaded.tokenize(text, add_special=True)
        chunks = chunks_of(
            ids[: len(ids) // 512 * 512], bos=loaded.bos if loaded.adds_bos else None
        )
        ours = collect(loaded, chunks, threads=options.threads)
    ours = replace(ours, dataset="text.txt")
    ours.write(work / "ours.imatrix.gguf")
    threads = str(options.threads)
    tool(
        f"{tools}/llama-imatrix", "-m", f16.name, "-f", "text.txt", "-o", "theirs.imatrix.gguf",
        "-c", "512", "-b", "512", "--parse-special", "--no-ppl", "-t", threads, "--no-repack",
        "-ngl", "0",
    )  # fmt: skip
    theirs = read_matrix(work / "theirs.imatrix.gguf")
    worst = max(
        float(np.max(np.abs(ours.weights[name].sums - entry.sums) / np.maximum(entry.sums, 1e-30)))
        for name, entry in theirs.weights.items()
    )
    # Theirs read by ours, ours read by theirs.
    made = work / "ours.gguf"
    write_quantized(
        model, made, options.quantization,
        threads=options.threads, matrix=theirs, matrix_file="ours.imatrix.gguf",
    )  # fmt: skip
    tool(
        f"{tools}/llama-quantize", "--imatrix", "ours.imatrix.gguf", f16.name, "theirs.gguf",
        options.quantization, threads,
    )  # fmt: skip
    return {
        "tokens": sum(map(len, chunks)),
        "imatrix_identical": same(work / "ours.imatrix.gguf", work / "theirs.imatrix.gguf"),
        "imatrix_largest_relative_difference": worst,
        "quantized_identical": same(made, work / "theirs.gguf"),
    }


def read_matrix(path: Path) -> ImportanceMatrix:
    """An imatrix GGUF as ours."""
    gguf = GGUFFile(path)
    weights = {
        name.removesuffix(SUMS): Importance(
            gguf.dequantized(name).reshape(-1),
            round(float(gguf.dequantized(name.removesuffix(SUMS) + COUNTS).item())),
        )
        for name in gguf.tensors
        if name.endswith(SUMS)
    }
    chunks, size = (gguf.require(f"imatrix.chunk_{key}") for key in ("count", "size"))
    return ImportanceMatrix(weights, chunks, size, gguf.require("imatrix.datasets")[0])


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run's directory")
    parser.add_argument("--work", type=Path, required=True, help="folder for the GGUFs made here")
    parser.add_argument("--tools", type=Path, help="folder with llama.cpp's tools")
    parser.add_argument("--quantization", default="Q4_K_M")
    parser.add_argument("--tokens", type=int, nargs="*", default=[2048, 16384])
    parser.add_argument("--limit", type=int, default=1000, help="held-out examples at most")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    run = RunDirectory(options.run)
    base = Path(run.require_stage("train", TrainOutput).base.path)
    model = GGUFModel(MergedCheckpoint(base, Adapter(run.adapter)), run.adapter, name=run.name)
    f16 = options.work / "f16.gguf"
    write_quantized(model, f16, "F16", threads=options.threads)
    result: dict[str, Any] = {"quantization": options.quantization}
    if options.tools:
        result["tools"] = compare_with_tools(options, f16, model)
        print(json.dumps(result["tools"], indent=1))

    names = ["F16", "no matrix", *(f"{tokens:,} tokens" for tokens in options.tokens)]
    files = [options.work / "plain.gguf"]
    write_quantized(model, files[0], options.quantization, threads=options.threads)
    with LlamaModel(f16) as loaded:
        files += [with_matrix(options, run, model, loaded, tokens) for tokens in options.tokens]
        examples = read_split(run.split("test"), limit=options.limit)
        models = [LlamaModel(path) for path in files]
        scores, answer_tokens = measure(loaded, models, examples, options.threads)

    result |= {"examples": len(examples), "answer_tokens": answer_tokens, "models": {}}
    print(f"{options.quantization}, {len(examples)} examples, {answer_tokens} answer tokens")
    print(
        f"{'matrix':>14} {'PPL':>8} {'right':>7} {'KLD answers':>12} {'KLD all':>10}  gained (95 %)"
    )
    for name, score in zip(names, scores, strict=True):
        row = result["models"][name] = summary(score, scores[1], answer_tokens)
        gain, half = row["all_kld_gain"]
        print(
            f"{name:>14} {row['perplexity']:8.4f} {100 * row['accuracy']:6.1f}% "
            f"{row['answer_kld']:12.5f} {row['all_kld']:10.5f} {gain:+9.5f} ± {half:.5f}"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
