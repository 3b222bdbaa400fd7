"""Data of a training and a benchmark: every kind of file, and the task files."""

from __future__ import annotations

import csv
import gzip
import io
import json
from functools import cache
from typing import Any

from fuzz.target import Target, must
from fuzz.targets.scratch import written
from tuneserve.bench.tasks.lm_eval.tasks import read_tasks
from tuneserve.bench.tasks.tasks import further_tasks, reference_of
from tuneserve.extras import missing_packages
from tuneserve.finetune.data.reading import read_examples
from tuneserve.settings import BenchSettings

# The first byte says which kind of file the rest is.
_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".jsonl.gz", ".parquet", ".arrow", ".md")


def _check_data(data: bytes) -> None:
    kind = _KINDS[data[0] % len(_KINDS)] if data else _KINDS[0]
    path = written(f"data{kind}", data[1:])
    read = read_examples(path, skip_bad=True)
    for example in read.examples:
        must(bool(example.id), "an example without an id")
        must(bool(example.messages), "an example without a turn")
    ids = [example.id for example in read.examples]
    again = read_examples(path, skip_bad=True)
    must([example.id for example in again.examples] == ids, "read twice, two results")


def _records() -> list[dict[str, Any]]:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ä"}]
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    return [
        {"instruction": "i", "input": "x", "output": "o", "group": "g"},
        {"prompt": "p", "completion": "c", "id": 3},
        {"messages": turns, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [turns[0], {"role": "assistant", "content": None, "tool_calls": [call]}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"question": "2+2?", "answer": "4", "split": "test"},
        {"text": "plain"},
    ]


@cache
def _data_seeds() -> dict[str, bytes]:
    records = _records()
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in records)
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerows([["prompt", "completion"], ["p,1", 'c"2'], ["\n", "ü"]])
    seeds = {
        ".jsonl": lines,
        ".json": json.dumps(records).encode(),
        ".csv": table.getvalue().encode(),
        ".tsv": b"prompt\tcompletion\np\tc\n",
        ".txt": b"one\n\ntwo\n",
        ".md": b"# a\n\nb\n",
        ".jsonl.gz": gzip.compress(lines, mtime=0),
    }
    if "pyarrow" not in missing_packages("train"):
        import pyarrow as pa
        from pyarrow import ipc, parquet

        content = pa.Table.from_pylist([{"prompt": "p", "completion": str(n)} for n in range(3)])
        sink, stream = io.BytesIO(), io.BytesIO()
        parquet.write_table(content, sink)
        with ipc.new_stream(stream, content.schema) as file:
            file.write_table(content)
        seeds |= {".parquet": sink.getvalue(), ".arrow": stream.getvalue()}
    return {kind: bytes([_KINDS.index(kind)]) + content for kind, content in seeds.items()}


_SCORES = ("exact", "number", "regex", "choice", "labels", "json", "contains")


def _check_tasks(data: bytes) -> None:
    score = _SCORES[data[0] % len(_SCORES)] if data else _SCORES[0]
    path = written("task.jsonl", data[1:])
    settings = BenchSettings(tasks=(f"{path}={score}",), pattern=r"(\w+)")
    for task in further_tasks(settings):
        for example, scorer in zip(task.examples, task.scorers, strict=True):
            reference = reference_of(example)
            for answer in (reference, "", "Answer: 42"):
                mark = scorer.mark(answer, reference)
                must(0.0 <= mark.score <= 1.0, f"a score of {mark.score}")
                must(0.0 <= mark.strict <= mark.lenient <= 1.0, f"{mark} is in no order")


def _task_seeds() -> dict[str, bytes]:
    rows = {
        "exact": ["yes", "no", "no"],
        "number": ["4", "1,234.5", "½", "5 Mio."],
        "choice": ["A", "B", "A"],
        "labels": ["a, b", "c"],
        "json": ['{"a": [1, "x"]}', "[1]"],
    }
    return {
        score: bytes([_SCORES.index(score)])
        + b"".join(
            json.dumps({"prompt": f"q{n}", "completion": answer}).encode() + b"\n"
            for n, answer in enumerate(answers)
        )
        for score, answers in rows.items()
    }


def _check_task_file(data: bytes) -> None:
    written("lm/rows.jsonl", b'{"q": "2+2?", "a": "4", "c": ["3", "4"], "n": 1}\n' * 3)
    path = written("lm/task.yaml", data)
    for task in read_tasks(BenchSettings(tasks=(str(path),), limit=2)):
        for figure in task.figures:
            for example, scorer in zip(figure.examples, figure.scorers, strict=False):
                mark = scorer.mark("4", reference_of(example))
                must(0.0 <= mark.score <= 1.0, f"a score of {mark.score}")


def _task_file_seeds() -> dict[str, bytes]:
    head = "task: fuzz\ndataset_path: json\ndataset_kwargs:\n  data_files: rows.jsonl\n"
    choices = (
        "test_split: train\noutput_type: multiple_choice\ndoc_to_text: 'Q: {{q}} A:'\n"
        "doc_to_choice: c\ndoc_to_target: n\nmetric_list:\n  - metric: acc\n"
    )
    generated = (
        "test_split: train\noutput_type: generate_until\ndoc_to_text: '{{ q | trim }}'\n"
        'doc_to_target: a\nnum_fewshot: 0\ngeneration_kwargs:\n  until: ["\\n"]\n'
        "metric_list:\n  - metric: exact_match\n    ignore_case: true\nfilter_list:\n  - name: x\n"
        "    filter:\n      - function: regex\n        regex_pattern: '(\\d+)'\n"
        "      - function: take_first\n"
    )
    return {"choices": (head + choices).encode(), "generated": (head + generated).encode()}


_TASK_WORDS = (
    *(
        b"!function x.y",
        b"&a [*a]",
        b"*a",
        b"<<: ",
        b"include: task.yaml",
        b"!!python/object:x",
        b"? ",
    ),
    *(
        b"{{ q }}",
        b"{% for i in range(9) %}",
        b"regex_pattern: '(a+)+$'",
        b"doc_to_target: ",
        b"| ",
    ),
)
_WORDS = (
    b'"messages"',
    b'"role"',
    b'"content"',
    b'"tool_calls"',
    b'"arguments"',
    b'"from"',
    b'"value"',
    b'"chosen"',
    b'"id"',
    b'"system"',
    b"[INST]",
    b"<think>",
    b"</think>",
    b'[{"type":"text"}]',
    b"PAR1",
)
TARGETS = (
    Target("data", _check_data, _data_seeds, _WORDS),
    Target("task_files", _check_task_file, _task_file_seeds, _TASK_WORDS),
    Target("tasks", _check_tasks, _task_seeds, (b'"completion"', b"1,234.5", b"-", b"\xc2\xbd")),
)
