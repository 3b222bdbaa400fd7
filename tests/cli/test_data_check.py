from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, Runner

GOOD = [{"instruction": f"Say {n}.", "output": f"It is {n}."} for n in range(4)]
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(*records: Any, name: str = "mine.jsonl") -> str:
        text = "".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in records)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return written


def test_the_exit_code_says_whether_anything_is_odd(tuneserve: Runner, write: Write) -> None:
    good = tuneserve("data", "check", write(*GOOD))
    assert good.returncode == 0, good.stderr
    assert "4 examples, nothing is odd" in good.stderr
    path = write(*GOOD, {"instruction": "a"}, {"output": 1, "colour": "red"}, name="bad.jsonl")
    bad = tuneserve("data", "check", path, "--json")
    assert bad.returncode == 1
    assert "bad.jsonl:5: " in bad.stderr
    assert "bad.jsonl:6: " in bad.stderr
    told = json.loads(bad.stdout)
    assert (told["ok"], told["examples"], len(told["refused"])) == (False, 4, 2)
    assert told.keys() >= {"notes", "kinds", "split", "shapes", "duplicates", "problems", "hints"}


def test_a_wrong_command_has_its_own_exit_code(tuneserve: Runner, tmp_path: Path) -> None:
    for arguments in ([], [str(tmp_path / "none.jsonl")], ["x.jsonl", "--nonsense"]):
        done = tuneserve("data", "check", *arguments)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr


def test_of_many_refused_records_the_first_are_shown_and_all_are_in_the_json(
    tuneserve: Runner, write: Write
) -> None:
    done = tuneserve("data", "check", write(*({f"colour {n}": "red"} for n in range(30))), "--json")
    assert done.stderr.count("mine.jsonl:") == 21, "twenty of them, and the verdict"
    assert "… and 10 more" in done.stderr
    assert len(json.loads(done.stdout)["refused"]) == 30


def test_further_files_are_arguments_too(tuneserve: Runner, write: Write) -> None:
    others = [{"prompt": "a", "completion": "b"}]
    done = tuneserve("data", "check", write(*GOOD), write(*others, name="b.jsonl"), "--json")
    told = json.loads(done.stdout)
    assert told["shapes"] == {"alpaca": 4, "prompt/completion": 1}
    assert len(told["files"]) == 2


def test_it_works_where_nothing_that_trains_is_installed(write: Write) -> None:
    blocked = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'tokenizers', 'datasets', 'peft', 'unsloth'):\n"
        "    sys.modules[name] = None\n"
        "from tuneserve.cli import main\n"
        "main(['data', 'check', sys.argv[1]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked, write(*GOOD)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_with_a_base_what_is_cut_or_can_not_be_trained_is_found(
    tuneserve: Runner, write: Write
) -> None:
    rows = [
        *GOOD,
        {"instruction": "Count.", "output": "one " * 100},
        {"instruction": "long " * 100, "output": "x"},
    ]
    path = write(*rows)
    assert tuneserve("data", "check", path).returncode == 0
    done = tuneserve("data", "check", path, "--base", "demo", "--max-seq-length", "64", "--json")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert (told["encoded"], told["cut"]) == (True, 1)
    assert [line.split(": ")[0] for line in told["refused"]] == [f"{path}:6"]
    assert {kind["name"] for kind in told["kinds"]} == {"alpaca", "alpaca with its end cut off"}
