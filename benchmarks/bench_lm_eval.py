"""lm-evaluation-harness beside `tuneserve bench` on the same task files: equal scores, prompt by
prompt?

Three tasks are made of a run's held-out sentences (label and sentence, as the demo has them): the
label as multiple choice; the label generated, with a regex filter and three examples in front; and
which second half belongs to a sentence's first, whose choices have different lengths, so that acc
and acc_norm differ. lm-eval asks the model through `tuneserve serve`, with token ids, with text,
and through the chat template; ours is asked in process, as `tuneserve bench` asks it.

    python benchmarks/bench_lm_eval.py model.gguf runs/NAME/data/test.jsonl \
        --python VENV/bin/python --prompts 150 --json result.json

VENV has `lm_eval[api]` and transformers (benchmarks/clients/requirements-evals.txt). Exit code 1
if a score differs where no near tie explains it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneserve.bench.measure.journal import Key
    from tuneserve.bench.measure.work import Contender, Workload

PROMPTS = 150
NEAR_TIE = 0.2
"""Nats: what batches of other sizes were seen to change in a log-likelihood (Q4_K_M on a CPU)."""
MODES = {
    "token ids": {"tokenized_requests": True},
    "text": {"tokenized_requests": False},
    "chat template": {"tokenized_requests": True},
}
DATA = """\
dataset_path: json
dataset_kwargs:
  data_files: {test: DATA, train: SHOTS}
test_split: test
"""
TASKS = {
    "label_choice": """\
output_type: multiple_choice
description: "Is the text positive, negative or neutral?\\n\\n"
doc_to_text: "Text: {{text}}\\nSentiment:"
doc_to_choice: ["negative", "neutral", "positive"]
doc_to_target: label
""",
    "label_generated": """\
output_type: generate_until
training_split: train
num_fewshot: 3
fewshot_config: {sampler: first_n}
doc_to_text: "Text: {{text}}\\nSentiment:"
doc_to_target: "{{label}}"
generation_kwargs: {until: ["\\n\\n", "Text:"], max_gen_toks: 12, do_sample: false}
filter_list:
  - name: word
    filter:
      - {function: lowercase}
      - {function: regex, regex_pattern: "(negative|neutral|positive)"}
      - {function: take_first}
  - name: strict
    filter:
      - {function: remove_whitespace}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true,
     ignore_punctuation: true}
""",
    "second_half": """\
output_type: multiple_choice
doc_to_text: "{{first}}"
doc_to_choice: "{{[right] + others if place == 0 else others[:place] + [right] + others[place:]}}"
doc_to_target: "{{place}}"
""",
}


@dataclass(frozen=True)
class Sample:
    """A prompt's requests (context and continuation, '' where an answer is generated), its figures
    by name, its choices' log-likelihoods or its answer's text."""

    requests: list[tuple[str, str]]
    scores: dict[str, float]
    likelihoods: list[float]
    text: str


Samples = dict[str, dict[int, Sample]]
"""By task, then by the prompt's number."""


def write_tasks(source: Path, folder: Path, prompts: int) -> list[Path]:
    """The task files with their data."""
    rows = [json.loads(line) for line in source.open(encoding="utf-8")]
    texts = [row["messages"][-2]["content"].split("Text: ", 1)[-1] for row in rows]
    labels = [row["messages"][-1]["content"] for row in rows]
    halves = [_halves(text) for text in texts]
    documents = [
        {
            "text": text,
            "label": label,
            "first": first,
            "right": right,
            "others": [halves[(place + step) % len(halves)][1] for step in (7, 19, 41)],
            "place": place % 4,
        }
        for place, (text, label, (first, right)) in enumerate(
            zip(texts, labels, halves, strict=True)
        )
    ]
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"data": documents[:prompts], "shots": documents[prompts : prompts + 12]}
    for name, part in parts.items():
        lines = "".join(f"{json.dumps(row)}\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    paths = []
    for name, text in TASKS.items():
        data = DATA.replace("DATA", f"{folder}/data.jsonl").replace(
            "SHOTS", f"{folder}/shots.jsonl"
        )
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(f"task: {name}\n{data}{text}", encoding="utf-8")
    return paths


def _halves(text: str) -> tuple[str, str]:
    words = text.split()
    middle = max(1, len(words) // 2)
    return " ".join(words[:middle]), " ".join(words[middle:]) or "and that is all."


def ours(
    model: Path, tasks: list[Path], folder: Path, *, chat: bool, ctx: int, cache: str
) -> Samples:
    """What `tuneserve bench` makes of the tasks, for one model."""
    from tuneserve.bench.compare.answers import read_responses
    from tuneserve.bench.measure.journal import Journal
    from tuneserve.bench.measure.measure import measure_answers
    from tuneserve.bench.measure.values import CHOICE
    from tuneserve.bench.measure.work import Contender, Workload
    from tuneserve.bench.tasks.lm_eval.tasks import read_tasks
    from tuneserve.bench.tasks.texts import encode_texts
    from tuneserve.bench.text_tasks import text_work
    from tuneserve.llama import LlamaModel
    from tuneserve.settings import BenchSettings, ServeSettings

    settings = BenchSettings(tasks=tuple(map(str, tasks)), ctx=ctx, task_chat_template=chat)
    read = read_tasks(settings)
    with LlamaModel(model, vocab_only=True) as vocabulary:
        encoded = iter(encode_texts(vocabulary, [one for task in read for one in task.prompts]))
    works = [text_work(task, encoded, settings) for task in read]
    serve = ServeSettings.model_validate({"cache_type_k": cache, "cache_type_v": cache})
    contender = Contender("model", model, serve, settings)
    workload = Workload(
        requests=[request for work in works for request in work.requests],
        expected=[],
        choices=[work.choices for work in works],
        texts={},
    )
    requests: dict[str, list[tuple[str, str]]] = {}
    for task in read:
        for one in task.asked or task.choices:
            context = one.context if isinstance(one.context, str) else ""
            requests.setdefault(one.example.id, []).append((context, one.continuation or ""))
    found: Samples = {}
    with Journal(folder / "journal", "", keys_of(model, workload, contender)) as journal:
        measure_answers(contender, workload, journal)
        for path, work in zip(tasks, works, strict=True):
            likelihoods: dict[str, list[float]] = {}
            for item in work.choices:
                name, _, _ = item.example.id.rpartition(" ")
                nll = journal.get(CHOICE, "model", item.example.id)["nll"]
                likelihoods.setdefault(name, []).append(-nll)
            samples: dict[int, Sample] = {}
            for asked in work.figures:
                figure = asked.task.name.removeprefix(f"{path.stem} ")
                for item, response in zip(
                    asked.encoded, read_responses(journal, "model", asked), strict=True
                ):
                    name = item.example.id
                    number = int(name.rpartition("/")[2])
                    known = samples.setdefault(
                        number,
                        Sample(requests[name], {}, likelihoods.get(name, []), response.text),
                    )
                    known.scores[figure] = response.score
            found[path.stem] = samples
    return found


def keys_of(model: Path, workload: Workload, contender: Contender) -> dict[Key, str]:
    """The keys of what is measured, so that each measurement is taken once."""
    from tuneserve.bench.measure.keys import model_conditions, model_keys
    from tuneserve.files import sha256_file
    from tuneserve.run import processor

    conditions = model_conditions(sha256_file(model), None, contender.serve, processor())
    return model_keys("model", conditions, workload, contender.bench)


def ask_lm_eval(job: dict[str, Any]) -> None:
    """Run lm-eval (in an environment that has it), and write its samples."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import lm_eval
    from lm_eval.tasks import TaskManager

    result = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=job["model_args"],
        tasks=job["tasks"],
        task_manager=TaskManager(include_path=job["folder"], include_defaults=False),
        apply_chat_template=job["chat"],
        fewshot_as_multiturn=job["chat"],
        use_cache=job["cache"],
        bootstrap_iters=0,
        log_samples=True,
    )
    kept = {
        name: [
            {
                key: row[key]
                for key in (
                    "doc_id",
                    "filter",
                    "resps",
                    "arguments",
                    "metrics",
                    *row["metrics"],
                )
            }
            for row in rows
        ]
        for name, rows in result["samples"].items()
    }
    Path(job["target"]).write_text(json.dumps({"samples": kept, "results": result["results"]}))


def theirs(
    options: argparse.Namespace, tasks: list[Path], folder: Path, url: str, mode: str
) -> tuple[Samples, dict[str, Any]]:
    """What lm-eval makes of the tasks through the server at `url`, and its own summary."""
    target = folder / "lm-eval.json"
    job = {
        "folder": str(folder), "tasks": [path.stem for path in tasks], "target": str(target),
        "chat": mode == "chat template", "cache": str(folder / f"cache-{mode}"),
        "model_args": {
            "model": "model", "base_url": f"{url}/v1/completions", "max_length": options.ctx,
            "tokenizer": str(folder / "tokenizer"), "tokenizer_backend": "huggingface",
            "num_concurrent": 4, "max_retries": 1, **MODES[mode],
        },
    }  # fmt: skip
    subprocess.run(
        [options.python, __file__, "--ask-lm-eval", json.dumps(job)],
        check=True,
        env={**os.environ, "OPENAI_API_KEY": "none", "LMEVAL_LOG_LEVEL": "ERROR"},
    )
    written = json.loads(target.read_text())
    found: Samples = {}
    for task, rows in written["samples"].items():
        samples = found.setdefault(task, {})
        filters = {row["filter"] for row in rows}
        for row in rows:
            chosen = TASKS[task].startswith("output_type: multiple_choice")
            likelihoods = [float(one[0][0]) for one in row["resps"]] if chosen else []
            text = "" if chosen else row["resps"][0][0]
            requests = [
                (one[0], one[1] if isinstance(one[1], str) else "") for one in row["arguments"]
            ]
            known = samples.setdefault(row["doc_id"], Sample(requests, {}, likelihoods, text))
            behind = f" {row['filter']}" if len(filters) > 1 else ""
            known.scores.update({f"{name}{behind}": row[name] for name in row["metrics"]})
    return found, written["results"]


def compare(task: str, mine: dict[int, Sample], other: dict[int, Sample]) -> dict[str, Any]:
    """Equal scores, prompt by prompt, and how far apart log-likelihoods are."""
    assert mine.keys() == other.keys()
    figures = list(next(iter(other.values())).scores)
    apart = [
        abs(one - two)
        for number in other
        for one, two in zip(mine[number].likelihoods, other[number].likelihoods, strict=True)
    ]
    row: dict[str, Any] = {"task": task, "prompts": len(other)}
    if any(context for one in mine.values() for context, _ in one.requests):
        # Of conversations only the template knows the text.
        row["equal requests"] = sum(mine[one].requests == other[one].requests for one in other)
    differing = set()
    for figure in figures:
        scores = [(mine[number].scores[figure], other[number].scores[figure]) for number in other]
        differing |= {
            number for number, (one, two) in zip(other, scores, strict=True) if one != two
        }
        row[figure] = {
            "ours": sum(one for one, _ in scores) / len(scores),
            "lm-eval": sum(two for _, two in scores) / len(scores),
            "equal": sum(one == two for one, two in scores),
        }
    if apart:
        row["log-likelihoods"] = {
            "compared": len(apart),
            "mean difference": sum(apart) / len(apart),
            "largest difference": max(apart),
        }
    else:
        same = [mine[number].text == other[number].text for number in other]
        row["equal texts"] = sum(same)
    row["unexplained"] = sorted(
        number for number in differing if not _near_tie(mine[number], other[number])
    )
    row["differing"] = sorted(differing)
    return row


def _near_tie(mine: Sample, other: Sample) -> bool:
    """May what batches change explain it? Choices as near to each other as that; of answers another
    text, since greedy generation forks at near ties."""
    if not mine.likelihoods:
        return mine.text != other.text
    first, second = sorted(mine.likelihoods)[-2:][::-1]
    return abs(first - second) < NEAR_TIE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?", help="test.jsonl of a run of the demo")
    parser.add_argument("--python", help="of an environment with lm_eval")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--folder", type=Path, help="keep what is measured here, and use it again")
    parser.add_argument("--ctx", type=int, default=2048, help="of one prompt")
    parser.add_argument("--cache-type", default="q8_0", help="of both; f16 or f32 rounds less")
    parser.add_argument("--serve", nargs="*", default=[], help="further options of the server")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--ask-lm-eval", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask_lm_eval:
        ask_lm_eval(options.ask_lm_eval)
        return 0
    from serve_peers import Peer, free_port, running

    from tuneserve.base.tokenizer import write_tokenizer
    from tuneserve.gguf.reader import GGUFFile

    rows = []
    with tempfile.TemporaryDirectory(prefix="lm-eval-") as name:
        folder = options.folder or Path(name)
        tasks = write_tasks(options.data, folder, options.prompts)
        tasks = [path for path in tasks if path.stem in options.tasks]
        (folder / "tokenizer").mkdir(exist_ok=True)
        write_tokenizer(GGUFFile(options.model), folder / "tokenizer")
        mine = {
            chat: ours(
                options.model, tasks, folder, chat=chat, ctx=options.ctx, cache=options.cache_type
            )
            for chat in sorted({mode == "chat template" for mode in options.modes})
        }
        port = free_port()
        command = [
            sys.executable, "-m", "tuneserve", "serve", str(options.model), "--port", str(port),
            "--name", "model", "--ctx", str(4 * options.ctx), "--slots", "4",
            "--cache-type-k", options.cache_type, "--cache-type-v", options.cache_type,
            *options.serve,
        ]  # fmt: skip
        with running(Peer("tuneserve", command, port), folder / "server.log"):
            for mode in options.modes:
                other, _ = theirs(options, tasks, folder, f"http://127.0.0.1:{port}", mode)
                for path in tasks:
                    found = mine[mode == "chat template"][path.stem]
                    rows.append({"mode": mode, **compare(path.stem, found, other[path.stem])})
                    print(json.dumps(rows[-1]), flush=True)
    good = not any(row["unexplained"] for row in rows)
    if options.json:
        options.json.write_text(json.dumps({"model": options.model.name, "rows": rows}, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
