"""What a run directory and a recipe say."""

from __future__ import annotations

import json
from typing import Any

from fuzz.target import Target, must
from fuzz.targets.scratch import written
from tuneserve.bench.measure.journal import Journal
from tuneserve.convert.result import ConvertOutput
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.foreign import is_of_a_run
from tuneserve.recipe import load_recipe, validate
from tuneserve.run import RunDirectory


def _check_run(data: bytes) -> None:
    path = written("runs/fuzz/run.json", data)
    run = RunDirectory(path.parent)
    must(is_of_a_run(path), "a run that is none")
    record = run.read()
    must(run.read() == record, "read twice, two results")
    run.finished("train", TrainOutput)
    converted = run.finished("convert", ConvertOutput)
    if converted:
        for place in filter(
            None, (*converted.files(run), run.base_gguf(converted.base.quantization))
        ):
            must(place.parent == run.gguf, f"{place} lies outside the run")
    validate(run.saved_settings(), where="run.json")


def _run_seeds() -> dict[str, bytes]:
    made = {"path": "p", "size_bytes": 1, "sha256": "0" * 64, "quantization": "Q8_0"}
    record: dict[str, Any] = {
        "schema": 1,
        "name": "fuzz",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"python": "3"},
        "settings": {"bench": {"task": "exact"}, "convert": {"quantization": "Q8_0"}},
        "stages": {
            "train": {
                "finished": "",
                "seconds": 1.0,
                "result": {"base": {"spec": "x", "path": "x", "name": "x", "sha256": {}}},
            },
            "convert": {"finished": "", "seconds": 1, "result": {"tuned": made, "base": made}},
        },
    }
    return {"whole": json.dumps(record).encode(), "old": b'{"name": "fuzz", "stages": {}}'}


def _check_recipe(data: bytes) -> None:
    tables = load_recipe(written("recipe.toml", data))
    validate(tables, where="again")


def _recipe_seeds() -> dict[str, bytes]:
    text = (
        '[model]\nbase = "x"\n[data]\nfile = "d.jsonl"\ntest_fraction = 0.1\n[train]\nr = 8\n'
        "epochs = 2.0\n"
        'target_modules = ["q_proj"]\n[convert]\nquantization = "auto"\nsize_limit = "80%"\n'
        '[serve]\nport = 8080\nprefix_disk = "2G"\n[bench]\ntask = "exact"\nclients = [1, 2]\n'
    )
    return {"recipe": text.encode()}


def _check_journal(data: bytes) -> None:
    path = written("runs/fuzz/bench-journal.jsonl", data)
    answer = {"text": "t", "finish_reason": "stop", "tokens": 1}
    with Journal(path) as journal:
        rows = len(journal)
    with Journal(path) as journal:
        must(len(journal) == rows, "what was read once is not read again")
        journal.add("answer", "base", "x", answer)
    with Journal(path) as journal:
        must(journal.get("answer", "base", "x") == answer, "what was added is not there")


def _journal_seeds() -> dict[str, bytes]:
    path = written("seed-journal.jsonl", b"")
    with Journal(path) as journal:
        journal.add("answer", "base", "1", {"text": "a", "tokens": 3, "finish_reason": "stop"})
        journal.add("likelihood", "tuned", "1", {"nll": 0.5, "tokens": 3})
    return {"two": path.read_bytes()}


TARGETS = (
    Target(
        "run",
        _check_run,
        _run_seeds,
        (b'"../x"', b'"stages"', b'"schema"', b'"quantization"', b"2"),
    ),
    Target(
        "recipe", _check_recipe, _recipe_seeds, (b"[bench]", b"= [", b"= {", b'"""', b"inf", b"nan")
    ),
    Target("journal", _check_journal, _journal_seeds, (b'"kind"', b'"key"', b'{"', b"\0\0\0\0")),
)
