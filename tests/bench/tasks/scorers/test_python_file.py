"""The user's own scorer: it works as a script does, and what is wrong with it comes out early."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneserve.bench.tasks.scorers import make_scorer, scorer_files
from tuneserve.bench.tasks.scorers.marks import ScorerError
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
