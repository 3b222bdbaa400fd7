"""The user's own scorer: it works as a script does, and what is wrong with it comes out early."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tuneserve.bench.tasks.scorers import make_scorer, scorer_files
from tuneserve.bench.tasks.scorers.marks import Scorer, ScorerError
from tuneserve.bench.tasks.tasks import held_out_task
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings


def test_a_users_function_scores(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Half:\n    value: float = 0.5\n"
        "def half(answer, reference): return Half().value\ndef two(a, r): return 2\n"
    )
    assert make_scorer(BenchSettings(task="python", scorer=f"{path}:half"), [])("a", "b") == 0.5
    with pytest.raises(UsageError, match="not between 0 and 1"):
        make_scorer(BenchSettings(task="python", scorer=f"{path}:two"), [])("a", "b")
    for bad, message in (
        ("", "needs a function as"),
        (f"{path}:absent", "has no function 'absent'"),
        (f"{tmp_path / 'none.py'}:f", "no such Python file"),
    ):
        with pytest.raises(UsageError, match=message):
            make_scorer(BenchSettings(task="python", scorer=bad), [])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("def f(a, r): return None", "returned None, which is no number"),
        ("def f(a, r): return 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("def f(a): return 1.0", r"failed: TypeError: f\(\) takes 1"),
        ("import no_such_module\ndef f(a, r): return 1.0", "can't be run: ModuleNotFoundError"),
        ("def f(a, r) return 1.0", "can't be run: SyntaxError"),
    ],
)
def test_a_users_function_that_fails_is_one_clear_error_before_anything_is_asked(
    tmp_path: Path, function: str, message: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(function)
    settings = BenchSettings(task="python", scorer=f"{path}:f")
    example = Example.of_turn("1", "x", "y")
    with pytest.raises(UsageError, match=message) as caught:
        held_out_task("mine", [example], settings)
    assert caught.value.where.startswith(f"bench.scorer: {path}")


def test_a_file_beside_it_can_be_imported_also_late(tmp_path: Path) -> None:
    (tmp_path / "helper_of_mine.py").write_text("def same(a, b): return a == b\n")
    (tmp_path / "late_helper.py").write_text("value = 1.0\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "import helper_of_mine\ndef f(a, r):\n    import late_helper\n"
        "    return helper_of_mine.same(a, r) and late_helper.value\n"
    )
    scorer = make_scorer(BenchSettings(task="python", scorer=f"{path}:f"), [])
    assert scorer("x", "x") == 1.0
    names = [file.name for file in scorer_files(f"{path}:f")]
    assert names == ["helper_of_mine.py", "late_helper.py", "mine.py"]


def test_an_answer_that_the_scorer_fails_on_is_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(a, r):\n    return a.split()[1] == r\n")
    scorer = make_scorer(BenchSettings(task="python", scorer=f"{path}:f"), [])
    with pytest.raises(
        ScorerError, match=r"IndexError: list index out of range \(line 2\)"
    ) as caught:
        scorer("one", "x")
    assert caught.value.problems == ["answer: 'one'", "reference: 'x'"]


@pytest.mark.parametrize("function", ["return True if a == r else None", "return 1 / len(a)"])
def test_it_is_tried_on_wrong_answers_too(tmp_path: Path, function: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"def f(a, r): {function}\n")
    examples = [Example.of_turn("1", "x", "y"), Example.of_turn("2", "x", "z")]
    with pytest.raises(UsageError):
        held_out_task("mine", examples, BenchSettings(task="python", scorer=f"{path}:f"))


def scorer_of(path: Path, body: str, **limits: float) -> Scorer:
    path.write_text(f"import os, sys, time\ndef f(a, r):\n    {body}\n")
    settings = BenchSettings.model_validate({"task": "python", "scorer": f"{path}:f", **limits})
    return make_scorer(settings, [])


def test_it_runs_apart_from_this_process_and_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    body = f"print('{{\"score\": 1}}'); return os.getpid() != {os.getpid()} and not any("
    scorer = scorer_of(tmp_path / "m.py", body + "'secret' in v for v in os.environ.values())")
    assert scorer("a", "a") == 1.0
    # What it prints is no reply: it goes to the log.
    said = capfd.readouterr()
    assert '{"score": 1}' in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("time.sleep(60)", "took longer than 0.5 s and was killed"),
        ("while True: pass", "took longer than 0.5 s and was killed"),
        ("os._exit(0)", r"ended its process \(exit code 0\)"),
        ("sys.exit(0)", r"ended its process \(exit code 0\)"),
        ("os.kill(os.getpid(), 11)", r"was ended by SIGSEGV"),
        ("os.write(1, b'x' * 10); sys.exit(3)", r"ended its process \(exit code 3\)"),
        ("os.closerange(3, 64); time.sleep(60)", "closed its output and was killed"),
        ("return bytearray(1 << 34)", "failed: MemoryError"),
        ("class A:\n        def __repr__(self): raise ValueError\n    return A()", "no number"),
    ],
)
def test_a_scorer_that_hangs_or_dies_costs_one_answer(
    tmp_path: Path, body: str, message: str
) -> None:
    path = tmp_path / "m.py"
    scorer = scorer_of(path, f"if a == 'ok': return 1.0\n    {body}", scorer_seconds=0.5)
    with pytest.raises(ScorerError, match=message):
        scorer("bad", "x")
    assert scorer("ok", "x") == 1.0


def test_all_answers_together_have_a_limit(tmp_path: Path) -> None:
    scorer = scorer_of(tmp_path / "m.py", "time.sleep(0.2); return 1", scorer_total_seconds=0.1)
    with pytest.raises(ScorerError, match="was killed"):
        scorer("a", "b")
    with pytest.raises(UsageError, match=r"took more than 0\.1 s in all") as caught:
        scorer("a", "b")
    assert not isinstance(caught.value, ScorerError)  # the benchmark ends, no answer counts as 0


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    body = "import subprocess\n    p = subprocess.Popen(['sleep', '60'])\n"
    body += f"    open(r'{tmp_path}/pid', 'w').write(str(p.pid))\n    time.sleep(60)"
    scorer = scorer_of(tmp_path / "m.py", body, scorer_seconds=1)
    with pytest.raises(ScorerError, match="was killed"):
        scorer("a", "b")
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 10
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_long_answers_and_every_character_arrive(tmp_path: Path) -> None:
    scorer = scorer_of(tmp_path / "m.py", "return a == r * 3 and len(r) / 1e7")
    text = "ü\n\r\u2028\0\ud800" * 50_000
    assert scorer(text * 3, text) == len(text) / 1e7
