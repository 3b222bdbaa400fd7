"""From what was measured to scored answers, and the other files that are asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.tasks.lm_eval.lm_eval_support import GENERATING, ROWS, read_one, write_task
from tuneserve.bench.compare.answers import Asked, read_responses, with_choices
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.values import ANSWER
from tuneserve.bench.measure.work import ENDPOINT
from tuneserve.bench.tasks.tasks import further_tasks, held_out_task, require_different_files
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

EXAMPLE = Example(
    "1",
    (
        {"role": "user", "content": "6 x 7?"},
        {"role": "assistant", "content": "42", "reasoning_content": "Six sevens."},
    ),
)


def test_only_a_model_whose_prompt_opens_a_thought_begins_in_one(tmp_path: Path) -> None:
    task = held_out_task("sums", [EXAMPLE], BenchSettings())
    asked = Asked(task, [EncodedExample(EXAMPLE, [1], [2], opens_thought=True)])
    with Journal(tmp_path / "journal", "x") as journal:
        for name, text in (("tuned", "Six sevens.</think>42"), (ENDPOINT, "42")):
            value = {"text": text, "finish_reason": "stop", "tokens": 3}
            journal.add(ANSWER, name, "1", value)
        (tuned,) = read_responses(journal, "tuned", asked)
        (endpoint,) = read_responses(journal, ENDPOINT, asked)
    assert (tuned.thought, tuned.text, tuned.score) == ("Six sevens.", "42", 1.0)
    assert (endpoint.text, endpoint.cut_off, endpoint.score) == ("42", False, 1.0)


def test_an_answer_that_a_task_files_pattern_takes_too_long_for_is_wrong(tmp_path: Path) -> None:
    endless = "filter_list: [{name: a, filter: [{function: regex, regex_pattern: '(b+)+$'}]}]\n"
    path = write_task(tmp_path, GENERATING + endless, ROWS[:1])
    found = read_one(path, scorer_seconds=0.3)
    (task,) = found.figures
    (example,) = task.examples
    asked = Asked(task, [EncodedExample(example, [1], [2], opens_thought=False)])
    with Journal(tmp_path / "journal", "x") as journal:
        for name, text in (("base", "b" * 40 + "!"), ("tuned", "It is b")):
            value = {"text": text, "finish_reason": "stop", "tokens": 3}
            journal.add(ANSWER, name, example.id, value)
        (base,), (tuned,) = (read_responses(journal, name, asked) for name in ("base", "tuned"))
    assert (base.score, base.found) == (0.0, "one")
    assert base.problem == "the pattern '(b+)+$' took longer than 0.3 s and was killed"
    assert (tuned.found, tuned.problem) == ("one", "")


def test_choices_come_without_the_thoughts_of_the_reference() -> None:
    first, second = with_choices([EXAMPLE], ["41", "42"])
    assert (first.reference, second.reference) == ("41", "42")
    assert first.thoughts is second.thoughts is None


def _tasks(path: Path, limit: int = 0) -> list[Example]:
    settings = BenchSettings(tasks=(f"{path}=contains",), limit=limit)
    (task,) = further_tasks(settings)
    return task.examples


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "2+2?", "output": "<think>Easy.</think>4"},
        {"prompt": "2+2?", "completion": "<think>Easy.</think>4"},
        {"messages": [{"role": "user", "content": "2+2?"},
                      {"role": "assistant", "content": "4", "reasoning_content": "Easy."}]},
        {"conversations": [{"from": "human", "value": "2+2?"},
                           {"from": "gpt", "value": "<think>Easy.</think>4"}]},
    ],
)  # fmt: skip
def test_further_tasks_may_have_every_shape(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "sums.jsonl"
    text = json.dumps({"text": "Nothing is asked here."})
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n{text}\n")
    (only,) = _tasks(path)
    assert only.id.startswith(f"{path}/")
    assert only.prompt == ({"role": "user", "content": "2+2?"},)
    assert (only.reference, only.thoughts) == ("4", "Easy.")


def test_a_table_is_read_and_thinned(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    rows = [f"{n}+{n}?,{2 * n},g{n % 2}" for n in range(10)]
    path.write_text("\n".join(["instruction,output,group", *rows]))
    found = _tasks(path, limit=5)
    assert [example.reference for example in found] == ["0", "4", "8", "12", "16"]
    assert {example.group for example in found} == {"g0"}


def test_a_reference_that_can_not_be_scored_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    rows = [{"prompt": "1+1", "completion": "2"}, {"prompt": "x", "completion": "none"}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(UsageError) as caught:
        further_tasks(BenchSettings(tasks=(f"{path}=number",)))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:2: ")
    assert problem.endswith(": has no number: 'none'")


@pytest.mark.parametrize(
    "entries",
    [("a.jsonl=number", "b.jsonl=exact", "a.jsonl=exact"), ("a.yaml=acc", "./a.yaml=acc_norm")],
)
def test_a_file_that_is_named_twice_is_refused_by_its_name(entries: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        require_different_files(entries)
    said = f"is named twice: {entries[0]}, {entries[-1]}"
    assert caught.value.message == f"{entries[0].split('=')[0]} {said}"
    assert ("all its figures" in caught.value.hint) == ("yaml" in entries[0])
    require_different_files(entries[:1])


def test_bad_files_of_further_tasks_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    with pytest.raises(UsageError, match="no such file"):
        _tasks(path)
    path.write_text('{"instruction": "2+2?", "output": "4"}\n{"question": "2+2?"}\n{\n')
    with pytest.raises(UsageError, match="2 of 3 examples") as caught:
        _tasks(path)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        f"{path}:2",
        f"{path}:3",
    ]
    path.write_text('{"text": "Once upon a time."}\n')
    with pytest.raises(UsageError, match="with a prompt and a text"):
        _tasks(path)


def test_a_file_with_one_choice_alone_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    rows = [
        {"instruction": word, "output": answer} for word, answer in (("a", "Yes"), ("b", "yes"))
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(UsageError, match=r"quiz.jsonl:1: task 'choice' needs at least two choices"):
        further_tasks(BenchSettings(tasks=(f"{path}=choice",)))
    with pytest.raises(UsageError, match=r"bench.choices: task 'choice'"):
        further_tasks(BenchSettings(tasks=(f"{path}=choice",), choices=("yes",)))
    assert further_tasks(BenchSettings(tasks=(f"{path}=choice",), choices=("yes", "no")))
