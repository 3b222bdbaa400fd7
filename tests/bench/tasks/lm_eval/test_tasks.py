"""Task files of lm-eval to prompts, choices and scorers: what is asked, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.tasks.lm_eval.lm_eval_support import (
    CHOOSING,
    GENERATING,
    ROWS,
    read_one,
    refusal,
    write_task,
)
from tuneserve.bench.tasks.lm_eval.tasks import figure_names, input_files
from tuneserve.bench.tasks.tasks import further_tasks
from tuneserve.settings import BenchSettings


def test_choices_are_asked_one_by_one(tmp_path: Path) -> None:
    task = read_one(write_task(tmp_path, CHOOSING))
    assert [(one.context, one.continuation) for one in task.choices[:2]] == [
        ("The sky is", " blue"),
        ("The sky is", " loud and green"),
    ]
    assert not task.asked
    assert [one.name for one in task.figures] == ["quiz acc", "quiz acc_norm"]
    plain, norm = (one.choices[0] for one in task.figures)
    assert (plain.lengths, norm.lengths) == ([1, 1], [4, 14])
    assert [one.right for one in task.figures[0].choices] == [{0}, {1}, {1}]
    first = task.references[0]
    assert (first.context, first.continuation) == ("The sky is", " blue")
    assert first.example.reference == "blue"
    assert first.example.id == f"{tmp_path}/quiz.yaml/0"
    assert first.example.where == f"{tmp_path}/quiz.jsonl:1"


def test_answers_are_generated_up_to_a_stop(tmp_path: Path) -> None:
    body = GENERATING + "generation_kwargs: {until: ['\\n', '.'], max_gen_toks: 7}\n"
    task = read_one(write_task(tmp_path, body.replace("'\\n'", '"\\n"')))
    assert [one.context for one in task.asked] == [row["question"] for row in ROWS]
    assert all(one.continuation is None for one in task.asked)
    assert (task.until, task.max_tokens) == (("\n", "."), 7)
    assert [one.continuation for one in task.references] == [" blue", " four", " cold"]
    (figure,) = task.figures
    assert figure.verbatim
    assert [scorer("blue", "") for scorer in figure.scorers] == [1.0, 0.0, 0.0]
    assert figure.scorers[0](" blue", "") == 0.0


def test_without_kwargs_answers_end_at_the_delimiter_of_examples(tmp_path: Path) -> None:
    task = read_one(write_task(tmp_path, GENERATING))
    assert (task.until, task.max_tokens) == (("\n\n",), 256)


@pytest.mark.parametrize(
    ("target", "right"),
    [
        ("doc_to_target: '{{answer}}'", [{0}, {1}, {1}]),
        ("doc_to_target: '{{choices[answer]}}'", [{0}, {1}, {1}]),
        ("doc_to_target: 1", [{1}, {1}, {1}]),
        ("doc_to_target: '[0, 1]'", [{0, 1}, {0, 1}, {0, 1}]),
        ("doc_to_target: [0, 1]", [{0, 1}, {0, 1}, {0, 1}]),
    ],
)
def test_a_target_is_a_number_a_text_or_several(
    tmp_path: Path, target: str, right: list[set[int]]
) -> None:
    path = write_task(tmp_path, CHOOSING.replace("doc_to_target: answer", target))
    assert [one.right for one in read_one(path).figures[0].choices] == right


@pytest.mark.parametrize(
    "choices", ["{{choices}}", "{{[choices[0], choices[1]]}}", "['{{choices[0]}}', 'four']"]
)
def test_choices_may_be_a_template(tmp_path: Path, choices: str) -> None:
    body = CHOOSING.replace("doc_to_choice: choices", f"doc_to_choice: {json.dumps(choices)}")
    task = read_one(write_task(tmp_path, body, ROWS[1:2]))
    assert task.choices[1].continuation == " four"


def test_a_text_that_is_a_number_stands_for_several_inputs(tmp_path: Path) -> None:
    body = (
        CHOOSING.replace('"{{question}}"', "answer").replace("target: answer", "target: question")
        + "target_delimiter: ', '\n"
    )
    task = read_one(write_task(tmp_path, body))
    assert [(one.context, one.continuation) for one in task.choices[2:4]] == [
        ("green", ", Two and two are"),
        ("four", ", Two and two are"),
    ]
    assert task.figures[0].choices[1].right == {1}


def test_a_limit_spreads_over_the_prompts_and_keeps_their_numbers(tmp_path: Path) -> None:
    task = read_one(write_task(tmp_path, CHOOSING), limit=2)
    assert [one.example.id.rpartition("/")[2] for one in task.references] == ["0", "1"]
    assert len(task.choices) == 4


FIRST = "The sky is blue\n\nTwo and two are four\n\n"


def test_examples_stand_in_front(tmp_path: Path) -> None:
    body = CHOOSING + (
        "num_fewshot: 2\nfewshot_split: train\nfewshot_config: {sampler: first_n}\n"
        'description: "Say what is.\\n\\n"\n'
    )
    task = read_one(write_task(tmp_path, body))
    assert task.choices[0].context == f"Say what is.\n\n{FIRST}The sky is"
    assert "2 examples in front" in task.figures[0].about


def test_examples_may_be_written_otherwise(tmp_path: Path) -> None:
    body = GENERATING + (
        "num_fewshot: 1\n"
        "gen_prefix: 'It is'\n"
        "fewshot_config:\n"
        "  sampler: first_n\n"
        "  samples: [{question: 'Grass?', answer: green}]\n"
        "  doc_to_target: answer\n"
        "  gen_prefix: 'So:'\n"
        "  target_delimiter: ' - '\n"
        "  fewshot_delimiter: ' / '\n"
    )
    task = read_one(write_task(tmp_path, body))
    assert task.asked[0].context == "Grass? - So: green / The sky is It is"


def test_the_prompt_itself_is_never_among_its_examples(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}", "choices": ["a", "b"], "answer": n % 2} for n in range(6)]
    body = CHOOSING + "num_fewshot: 3\nfewshot_split: test\n"
    task = read_one(write_task(tmp_path, body, rows))
    shown = [[part[:2] for part in str(one.context).split("\n\n")] for one in task.references]
    # As lm-eval 0.4.13 draws them.
    assert [" ".join(each) for each in shown] == [
        "Q3 Q4 Q5 Q0",
        "Q4 Q0 Q5 Q1",
        "Q1 Q0 Q3 Q2",
        "Q0 Q2 Q4 Q3",
        "Q3 Q1 Q0 Q4",
        "Q0 Q4 Q2 Q5",
    ]


def test_chat_makes_turns_of_examples_and_drops_the_delimiter(tmp_path: Path) -> None:
    body = CHOOSING + (
        "num_fewshot: 1\nfewshot_split: train\nfewshot_config: {sampler: first_n}\n"
        "description: Be brief.\n"
    )
    path = write_task(tmp_path, body)
    task = read_one(path, task_chat_template=True)
    assert task.choices[0].context == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "The sky is"},
        {"role": "assistant", "content": "blue"},
        {"role": "user", "content": "The sky is"},
    )
    assert task.choices[0].continuation == "blue"
    assert "chat template" in task.figures[0].about
    path.write_text(path.read_text() + "gen_prefix: 'It is'\n")
    prefixed = read_one(path, task_chat_template=True).choices[0]
    assert isinstance(prefixed.context, tuple)
    assert prefixed.context[-1] == {"role": "assistant", "content": "It is"}
    assert prefixed.continuation == " blue"


def test_includes_are_read_and_named_as_inputs(tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text(CHOOSING + "target_delimiter: ': '\ntask_list: [x]\n")
    path = write_task(tmp_path, "include: common.yaml\ndoc_to_target: 0\n")
    task = read_one(path)
    assert task.choices[0].continuation == ": blue"
    assert [one.right for one in task.figures[0].choices] == [{0}] * 3
    names = {file.name for file in input_files(str(path))}
    assert names == {"quiz.yaml", "common.yaml", "quiz.jsonl"}


def test_of_doubled_keys_the_last_counts_as_in_lm_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doubled = "doc_to_target: 0\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
    doubled += "metric_list:\n  - {metric: acc_norm}\nprocess_docs: !function utils.f\n"
    path = write_task(tmp_path, doubled + "process_docs: null\n" + CHOOSING)
    task = read_one(path)
    assert [one.right for one in task.figures[0].choices] == [{0}, {1}, {1}]
    assert figure_names(str(path)) == ["quiz acc_norm"]
    said = [line.partition(": ") for line in capsys.readouterr().err.splitlines()]
    assert [where for where, *_ in said] == [f"{path}:{line}" for line in (7, 10, 14)]
    assert said[0][2] == ("'metric_list' is in line 6 already: the last counts, as lm-eval has it")


def test_one_metric_or_filter_may_be_asked_for(tmp_path: Path) -> None:
    path = write_task(tmp_path, CHOOSING)
    assert figure_names(f"{path}=acc_norm") == ["quiz acc_norm"]
    assert "did you mean 'acc_norm'" in refusal(f"{path}=acc_nrom").message
    filters = """\
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: word, filter: [{function: regex, regex_pattern: '(\\w+)'}, {function: take_first}]}
"""
    path = write_task(tmp_path, GENERATING + filters)
    both = ["quiz exact_match strict", "quiz exact_match word"]
    assert figure_names(str(path)) == both
    assert figure_names(f"{path}=word") == both[1:]
    word = read_one(f"{path}=word").figures[0].scorers[0]
    assert word("  blue, I think", "") == 1.0


def test_other_tasks_leave_task_files_alone(tmp_path: Path) -> None:
    assert further_tasks(BenchSettings(tasks=(str(write_task(tmp_path, CHOOSING)),))) == []


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("doc_to_text:", "doc_to_txet:"), 6, "unknown key 'doc_to_txet' (did you mean 'doc_to_t"),
        (("doc_to_target: answer", ""), 0, "doc_to_target is missing"),
        (("multiple_choice", "multiple_choices"), 5, "output_type: input should be 'multiple_cho"),
        (("multiple_choice", "loglikelihood"), 5, "'loglikelihood' is not measured here"),
        (("doc_to_choice: choices", ""), 5, "multiple_choice needs doc_to_choice"),
        (("dataset_path: json", "dataset_path: org/set"), 2, "nothing is downloaded"),
        (("dataset_path: json", "dataset_path: json\n group: x"), 3, "not valid YAML"),
        (("dataset_path: json", "group: all"), 2, "a group of tasks"),
        (("test_split: test", "test_split: tset"), 4, "no split 'tset' (did you mean 'test'?)"),
        (("test: quiz.jsonl", "test: other.jsonl"), 4, "no such file: other.jsonl"),
        (("doc_to_target: answer", "process_docs: !function utils.f"), 8, "is Python code"),
        (("test_split: test", "test_split: test\nprocess_docs: utils"), 4, "Code of a task"),
        (("doc_to_target: answer", "doc_to_target: 1.5"), 8, "a whole number or a text or a list"),
        (("doc_to_choice: choices", "doc_to_choice: [yes, no]"), -1, "that are texts (in quotes)"),
        (("doc_to_choice: choices", "doc_to_choice: []"), -1, "expected a list of choices"),
        (("doc_to_choice: choices", "doc_to_choice: '{{question}}'"), -1, "a list of choices"),
        (("{{question}}", "{{question"), 6, "the template can't be read"),
        (("{{question}}", "{{questoin}}"), -1, "'questoin' is undefined"),
        (("{{question}}", "{{question.__class__.mro()}}"), -1, "fails here"),
        (("{{question}}", "{{ 'x' * 10**9 }}"), -1, "takes too much memory"),
        (("doc_to_target: answer", "doc_to_target: 2"), -1, "there is no choice 2: there are 2"),
        (("doc_to_target: answer", "doc_to_target: blau"), -1, "'blau' is none of the choices"),
    ],
)
def test_what_is_wrong_is_one_error_at_its_place(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    path = write_task(tmp_path, CHOOSING)
    before = path.read_text()
    assert change[0] in before
    path.write_text(before.replace(*change))
    error = refusal(path)
    assert said in error.render()
    # 0: the file as a whole; -1: a line of the data.
    expected = {0: f"{path}", -1: f"{tmp_path}/quiz.jsonl:1"}
    assert error.where == expected.get(line, f"{path}:{line}")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("num_fewshot: 1\n", "own answer could be among its examples"),
        ("num_fewshot: 9\nfewshot_split: train\n", "num_fewshot is 9, and there are 3 examples"),
        ("repeats: 4\n", "repeats: a greedy answer is generated once (got 4)"),
        ("metric_list: [{metric: mcc}]\n", "metric 'mcc' is not measured here"),
        ("metric_list: [{metric: acc, ignore_case: true}]\n", "acc has no ignore_case"),
        ("metric_list: [{metric: acc, aggregation: median}]\n", "acc is a mean of scores"),
        ("filter_list: [{name: a, filter: [{function: lowercase}]}]\n", "generates nothing"),
        ("generation_kwargs: {until: []}\n", "multiple_choice generates nothing"),
        ("include: other.yaml\n", "no such file"),
        ("include: quiz.yaml\n", "includes itself"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", "unknown key 'a'"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, more: str, said: str) -> None:
    assert said in refusal(write_task(tmp_path, CHOOSING + more)).render()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("generation_kwargs: {do_sample: true}", "do_sample: answers are generated greedily"),
        ("generation_kwargs: {temperature: 0.7}", "temperature: answers are generated greedily"),
        ("generation_kwargs: {untill: x}", "unknown key 'generation_kwargs.untill' (did you mean"),
        ("filter_list: [{name: a, filter: [{function: regx}]}]", "did you mean 'regex'?"),
        ("filter_list: [{name: a, filter: [{function: custom}]}]", "'custom' is not used here"),
        ("filter_list: [{name: a, filter: [{function: lowercase, k: 1}]}]", "has no k"),
        ("filter_list: [{name: a, filter: [{function: regex, regex_pattern: '('}]}]", "bad patter"),
        ("filter_list: [{name: a, filter: [{function: take_first}, {function: lowercase}]}]",
         "take_first has to be the last"),
        ("metric_list: [{metric: exact_match, regexes_to_ignore: ['(']}]", "bad pattern"),
    ],
)  # fmt: skip
def test_what_can_not_be_generated_or_filtered_is_refused(
    tmp_path: Path, more: str, said: str
) -> None:
    error = refusal(write_task(tmp_path, f"{GENERATING}{more}\n"))
    assert said in error.render()
    assert error.where.rpartition(":")[2] == "8"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("filter_list: [{name: a, filter: [{function: regex, regex_pattern: '(a+)+$'}]}]",
         "the pattern '(a+)+$' took longer than 0.3 s and was killed"),
        ("metric_list: [{metric: exact_match, regexes_to_ignore: ['(a+)+$']}]",
         "the pattern '(a+)+$' took longer than 0.3 s and was killed"),
        ("filter_list: [{name: a, filter: [{function: regex, regex_pattern: 'a{4294967296}'}]}]",
         "bad pattern: the repetition number is too large"),
    ],
)  # fmt: skip
def test_a_pattern_that_takes_for_ever_is_an_error(tmp_path: Path, more: str, said: str) -> None:
    path = write_task(tmp_path, f"{GENERATING}{more}\n", [{**ROWS[0], "choices": ["a" * 40 + "!"]}])
    error = refusal(path, scorer_seconds=0.3)
    assert said in error.render()
    assert str(path) in error.where


def test_a_task_that_needs_choices_says_so_before_anything_is_asked(tmp_path: Path) -> None:
    steps = "filter_list: [{name: a, filter: [{function: multi_choice_regex}]}]\n"
    body = GENERATING.replace("{{choices[answer]}}", "{{answer}}") + steps
    path = write_task(tmp_path, body, [ROWS[0], {"question": "?", "answer": "x"}])
    assert "multi_choice_regex needs a list 'choices'" in refusal(path).message


def test_aliases_that_stand_for_billions_are_refused(tmp_path: Path) -> None:
    lines = "metadata:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for n in range(1, 9):
        lines += f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n"
    assert "too many values" in refusal(write_task(tmp_path, CHOOSING + lines)).message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "there is nothing in"),
        ('{"question": "a"}\n{"question": "b"\n', "quiz.jsonl:2: not JSON"),
        ("[1, 2]\n", "2 records of split 'test' can't be read"),
    ],
)
def test_data_that_are_none_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = write_task(tmp_path, CHOOSING)
    (tmp_path / "quiz.jsonl").write_text(content)
    assert said in refusal(path).render()


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    "row",
    [
        {"question": "Ice is", "choices": ["loud", "cold"], "answer": 1},
        {"question": "Ice is", "choices": ["loud", "cold"], "answer": 1, "meta": {"prompt": "x"}},
        {"answer": [1], "question": "Ice is", "choices": ["loud", "cold"], "train": [{"a": 1}]},
    ],
)
def test_a_single_document_is_one_whatever_its_columns_are_called(
    tmp_path: Path, row: dict[str, Any], end: str
) -> None:
    path = write_task(tmp_path, CHOOSING)
    for content, place in (
        (json.dumps(row), "quiz.jsonl:1"),
        (json.dumps(row, indent=1), "quiz.jsonl:1"),
        (json.dumps([row]), "quiz.jsonl:record 1"),
    ):
        (tmp_path / "quiz.jsonl").write_text(content + end)
        (one,) = read_one(path).references
        assert (one.context, one.continuation) == ("Ice is", " cold")
        assert one.example.where == f"{tmp_path}/{place}"


def test_choices_of_a_column_that_is_not_there_name_those_that_are(tmp_path: Path) -> None:
    path = write_task(tmp_path, CHOOSING.replace("doc_to_choice: choices", "doc_to_choice: c"))
    error = refusal(path)
    assert error.where == f"{path}:7"
    assert "doc_to_choice: there is no column 'c'" in error.message
    assert error.hint == "Columns: question, choices, answer"


def test_a_column_that_some_lack_is_empty(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ROWS, {**ROWS[0], "hint": "look up"}]
    body = CHOOSING.replace("{{question}}", "{{question}}{% if hint %} ({{hint}}){% endif %}")
    task = read_one(write_task(tmp_path, body, rows))
    assert [one.context for one in task.references][::3] == ["The sky is", "The sky is (look up)"]


def test_a_template_keeps_its_white_space_and_may_replace(tmp_path: Path) -> None:
    template = "{% if answer %}\n{{question | regex_replace('s+', 'z')}}\n{% endif %}\n"
    body = CHOOSING.replace('"{{question}}"', json.dumps(template))
    task = read_one(write_task(tmp_path, body, ROWS[2:]))
    assert task.references[0].context == "\nIce iz\n\n"


def test_half_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write_task(tmp_path, CHOOSING)
    quiz = tmp_path / "quiz.jsonl"
    lines = quiz.read_text().splitlines()
    lines[1] = lines[1].replace("Two and", "\\ud83d and")
    quiz.write_text("\n".join(lines) + "\n")
    assert "quiz.jsonl:2: holds half of a surrogate pair" in refusal(path).render()


@pytest.mark.parametrize(
    ("line", "where", "said"),
    [
        (r'doc_to_text: "\ud83d {{question}}"', 6, "doc_to_text holds half of"),
        (r'doc_to_text: "\ud83d\ude00 {{question}}"', 6, "doc_to_text holds half of"),
        (r'"\udc00": 1', 9, "a key holds half of"),
        (r'metadata: {notes: ["a", "\udfff"]}', 9, "metadata.notes.1 holds half of"),
    ],
)
def test_half_a_surrogate_pair_in_a_task_file_is_refused_with_its_line(
    tmp_path: Path, line: str, where: int, said: str
) -> None:
    replaced = CHOOSING.replace('doc_to_text: "{{question}}"', line)
    path = write_task(tmp_path, replaced if where == 6 else f"{CHOOSING}{line}\n")
    shown = refusal(path).render()
    assert f"quiz.yaml:{where}: {said}" in shown
    shown.encode()


def test_a_whole_character_beyond_the_first_plane_is_read(tmp_path: Path) -> None:
    body = CHOOSING.replace('"{{question}}"', r'"\U0001F600 {{question}}"')
    task = read_one(write_task(tmp_path, body))
    assert task.references[0].context == "\U0001f600 The sky is"


@pytest.mark.parametrize("choices", [["four"], ["four", "four"]])
def test_a_document_that_no_model_can_fail_is_refused(tmp_path: Path, choices: list[str]) -> None:
    rows = [ROWS[0], {**ROWS[1], "choices": choices, "answer": 0}, ROWS[2]]
    said = refusal(write_task(tmp_path, CHOOSING, rows)).render()
    assert (
        f"quiz.jsonl:2: doc_to_choice: expected two different choices or more, got {choices}"
        in (said)
    )


def test_one_choice_for_all_documents_is_refused(tmp_path: Path) -> None:
    body = CHOOSING.replace("doc_to_choice: choices", 'doc_to_choice: ["blue"]')
    path = write_task(tmp_path, body.replace("target: answer", "target: 0"))
    assert "expected two different choices or more" in refusal(path).message
