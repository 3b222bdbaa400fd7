"""`tuneserve init`: data and base are looked at, and the recipe that is written is one."""

from __future__ import annotations

import importlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT, Runner
from tuneserve.cli.columns import Column, column_of, guessed_columns, unknown_columns
from tuneserve.recipe import load_recipe, validate
from tuneserve.recipe_schema import recipe_schema
from tuneserve.recipe_text import CHANGED_FIRST, recipe_text, toml_value
from tuneserve.settings import Recipe

WORDS = ("iron", "tin", "zinc", "lead", "gold", "north", "south", "wind", "rain", "snow")


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """A table as a European Excel writes it, whose columns have names of their own."""
    rows = [
        f"{WORDS[i % 10]} fällt aus, {WORDS[i // 10]} {i}?;{('ja', 'nein')[i % 2]}"
        for i in range(100)
    ]
    path = tmp_path / "tickets.csv"
    path.write_bytes("\r\n".join(["Frage;Antwort", *rows]).encode("cp1252"))
    return path


def test_a_recipe_is_written_with_what_data_and_base_suggest(
    tuneserve: Runner, tmp_path: Path, tickets: Path
) -> None:
    arguments = ("init", "--file", tickets.name, "--base", "demo", "--no-calibrate", "--r", "8")
    refused = tuneserve(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    there = "There are: Frage (text of about 24 characters), Antwort (2 different values)"
    assert there in refused.stderr
    assert "--fields instruction=Frage,output=Antwort" in refused.stderr
    mapped = ("--fields", "instruction=Frage,output=Antwort", "--json")
    done = tuneserve(*arguments, *mapped, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["split"]["train"] > 40
    assert found["plan"]["work"]["steps"] > 0
    recipe = validate(load_recipe(tmp_path / "mine.toml"), where="")
    assert recipe.data.fields == ("instruction=Frage", "output=Antwort")
    assert (recipe.train.r, recipe.train.epochs, recipe.train.learning_rate) == (8, 3.0, 8e-4)
    assert (recipe.model.max_seq_length, recipe.bench.task) == (256, "exact")
    assert "suggested: bench.task = exact: there are 2 different answers" in done.stderr
    text = (tmp_path / "mine.toml").read_text()
    assert "# LoRA rank.\nr = 8\n" in text
    again = tuneserve(*arguments, *mapped, cwd=tmp_path)
    assert (again.returncode, "already exists" in again.stderr) == (2, True)


def test_a_base_without_a_template_gets_one(
    tuneserve: Runner, tmp_path: Path, tickets: Path, demo_base: Path
) -> None:
    shutil.copytree(demo_base, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    done = tuneserve(
        "init", "--file", str(tickets), "--fields", "instruction=Frage,output=Antwort", "--base",
        "./plain", "--no-calibrate", "-o", "mine.toml", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "suggested: model.chat_template = instruction: the base has none" in done.stderr


def test_the_longest_example_is_counted_as_a_training_counts(
    tuneserve: Runner, tmp_path: Path, tickets: Path, demo_base: Path
) -> None:
    """With template and system prompt. Where none fits, a training is not what comes next."""
    from tuneserve.base import read_base_config
    from tuneserve.cli.recipe_draft import draft
    from tuneserve.finetune.data.prepare import prepare_examples
    from tuneserve.finetune.timing.forecast import check_examples
    from tuneserve.finetune.timing.lengths import COUNTED, encode_examples
    from tuneserve.model_shape import ModelShape

    def recipe(**model: Any) -> Recipe:
        data = {"file": str(tickets), "fields": ["instruction=Frage", "output=Antwort"],
                "system": "iron tin zinc lead gold " * 30}  # fmt: skip
        return validate({"model": {"base": str(demo_base), **model}, "data": data}, where="")

    base = read_base_config(str(demo_base))
    lengths, encoded, _ = encode_examples(recipe(), base, prepare_examples(recipe().data))
    longest = max(len(item.input_ids) for part in encoded.values() for item in part)
    assert lengths == COUNTED
    assert longest > 150
    shape = ModelShape.of(base.config, base.where)

    def suggested(room: int) -> tuple[int, str]:
        of_room = replace(base, config={**base.config, "max_position_embeddings": room})
        found = draft(recipe(), prepare_examples(recipe().data), of_room, shape)
        return found.settings["model"]["max_seq_length"], found.reasons[0]

    length, reason = suggested(8192)
    assert length == 256
    assert reason.endswith(f"the longest example has {longest} tokens")
    length, reason = suggested(64)
    assert length == 64
    assert reason.endswith(f"has {longest} tokens, and this base is made for 64")

    whole = check_examples(recipe(), base)
    assert (whole.status, f"the longest {longest} of 2,048 tokens" in whole.found) == ("ok", True)
    cut = check_examples(recipe(max_seq_length=64), base)
    assert cut.status == "refused"
    assert "no token to train on: the prompt alone has" in cut.found

    done = tuneserve(
        "init", "--file", tickets.name, "--base", str(demo_base), "--no-calibrate", "--fields",
        "instruction=Frage,output=Antwort", "--max-seq-length", "16", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the examples can't be trained on as they are" in done.stderr
    assert "next: tuneserve data check --config mine.toml" in done.stderr
    assert "next: tuneserve train" not in done.stderr


def test_it_asks_in_a_terminal(tmp_path: Path, tickets: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tuneserve", "init", "--no-calibrate"], cwd=tmp_path, stdin=theirs,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.write(ours, f"{tickets}\ndemo\nFrage\n\n".encode())
    stdout, stderr = process.communicate(timeout=200)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0, stderr
    assert stdout == ""
    assert "Which column is the answer? [Antwort]: " in stderr
    written = load_recipe(tmp_path / "mine.toml")
    assert written["data"]["fields"] == ["instruction=Frage", "output=Antwort"]
    assert written["data"]["file"] == str(tickets)


def test_an_empty_answer_is_named_and_may_be_left_out(
    tuneserve: Runner, tmp_path: Path, tickets: Path
) -> None:
    """Of how many, in which column; the recipe then does as the command did."""
    lines = tickets.read_bytes().split(b"\r\n")
    lines[7] = lines[7].partition(b";")[0] + b";"
    tickets.write_bytes(b"\r\n".join(lines))
    arguments = ("init", "--file", tickets.name, "--base", "demo", "--no-calibrate",
                 "--fields", "instruction=Frage,output=Antwort")  # fmt: skip
    refused = tuneserve(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    reason = "'Antwort' (output) is empty: there is nothing to learn from it"
    assert f"tickets.csv:8: {reason} (of 100 examples the only one" in refused.stderr
    assert "--skip-bad" in refused.stderr
    done = tuneserve(*arguments, "--skip-bad", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 x left out as unusable (skip_bad)" in done.stderr
    assert load_recipe(tmp_path / "mine.toml")["data"]["skip_bad"] is True
    for answer, code in (("n", 2), ("y", 0)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "tuneserve", *arguments, "-o", f"{answer}.toml"], cwd=tmp_path,
            stdin=theirs, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        _, stderr = process.communicate(timeout=200)
        os.close(ours)
        os.close(theirs)
        assert process.returncode == code, stderr
        assert reason in stderr
        assert (tmp_path / f"{answer}.toml").exists() == (code == 0)
    assert load_recipe(tmp_path / "y.toml")["data"]["skip_bad"] is True


def test_nobody_to_ask_is_one_error(tuneserve: Runner, tmp_path: Path) -> None:
    done = tuneserve("init", "--base", "demo", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --file: is not given, and there is nobody to ask\n"
    (tmp_path / "few.jsonl").write_text('{"instruction": "Say yes.", "output": "yes"}\n')
    done = tuneserve("init", "--file", "few.jsonl", "--no-calibrate", cwd=tmp_path)
    assert done.stderr.startswith("model.base = demo: not given, and there is nobody to ask\n"), (
        done.stderr
    )


TEXTS = ["The printer in room 4 does nothing.", "Who pays for the train?", "Nothing works here."]
CLASSES = ["IT", "Travel", "IT"]


def guess(columns: dict[str, list[str]]) -> tuple[str, str]:
    """What is guessed of a table, given by columns."""
    records = max(map(len, columns.values()))
    found = guessed_columns([column_of(name, cells, records) for name, cells in columns.items()])
    return found.asked.name, found.answered.name


def test_columns_are_asked_about_only_where_none_is_known(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"Frage": "a", "id": 1, "Antwort": "b"}\n' * 2)
    assert [column.name for column in unknown_columns(path)] == ["Frage", "Antwort"]
    path.write_text('{"instruction": "a", "extra": 1}\n')
    assert unknown_columns(path) == []


@pytest.mark.parametrize(
    ("columns", "asked", "answered"),
    [
        ({"Label": CLASSES, "Text of it": TEXTS}, "Text of it", "Label"),
        ({"Question": TEXTS, "Answer": [], "Place": CLASSES}, "Question", "Place"),
        ({"a": TEXTS, "b": CLASSES, "c": TEXTS}, "a", "b"),
        # Prices, numbers, dates and ids stand around what is meant.
        (
            {
                "Nr.": ["1", "2", "3"], "Kunde": ["K1", "K2", "K3"], "Was ist los": TEXTS,
                "Wer": CLASSES, "Datum": ["2024-01-02", "2024-01-03", "3.1.2024"],
                "Kosten": ["12,50 €", "3,00 €", "EUR 1.204,10"],
            },
            "Was ist los", "Wer",
        ),
        ({"id no": ["7", "8", "9"], "вопрос": TEXTS, "ответ": TEXTS, "цена": ["1", "2", "3"]},
         "вопрос", "ответ"),
        ({"Preis": ["1", "2", "3"], "Réponse": TEXTS, "Demande": TEXTS}, "Demande", "Réponse"),
        ({"状态": ["好", "好", "好"], "问题": ["打印机3坏了吗", "谁付钱?"], "答案": ["是", "不"],
          "时间": ["10:30"] * 3}, "问题", "答案"),
        # A name that says so is believed, whatever the column holds.
        ({"Aufgabe": ["1 + 1", "2 + 5", "3 + 3"], "Bemerkung": TEXTS, "Ergebnis": ["2", "7", "6"]},
         "Aufgabe", "Ergebnis"),
        ({"Umsatz": ["1", "2", "3"], "Wunsch": TEXTS, "Wer": CLASSES}, "Wunsch", "Wer"),
        ({"Antworttext": TEXTS, "Anfrage": TEXTS}, "Anfrage", "Antworttext"),
        # A column with gaps is not taken for the answer.
        ({"Nr": ["1", "2", "3"], "Anfrage": TEXTS, "Wer": CLASSES, "Notiz": ["klein"]},
         "Anfrage", "Wer"),
        ({"a": ["x"], "b": ["yes", "zap", "wow"], "c": ["u", "v", "u"], "d": []}, "b", "c"),
        ({"a": ["1", "2"], "b": ["3", "4"]}, "a", "b"),
    ],
)  # fmt: skip
def test_columns_are_guessed_by_name_and_content(
    columns: dict[str, list[str]], asked: str, answered: str
) -> None:
    assert guess(columns) == (asked, answered)


def test_what_speaks_for_a_guess_is_told() -> None:
    columns = [column_of("Nr.", ["1", "2", "3"], 3), column_of("Anfrage", TEXTS, 3),
               column_of("Wer", CLASSES, 4)]  # fmt: skip
    assert guessed_columns(columns).why() == (
        "Anfrage is asked: its name, text of about 26 characters; Wer is answered: 2 different "
        "values, with gaps"
    )
    assert columns[0].describe() == "numbers"
    same = column_of("x", ["a", "a"], 2)
    assert (same, same.describe()) == (Column("x", "text", True, True, 1, 1.0), "always the same")


@given(st.lists(st.text(), min_size=1))
def test_every_column_holds_something(values: list[str]) -> None:
    assert column_of("x", values, len(values)).describe()


@given(st.text())
def test_every_text_is_toml(text: str) -> None:
    written = recipe_text({"data": {"system": text}}, {}, "x")
    assert tomllib.loads(written) == {"data": {"system": text}}


def test_what_is_offered_says_the_defaults() -> None:
    lines = recipe_text({}, CHANGED_FIRST, "x").splitlines()
    settings = [line[2:] for line in lines if line.startswith("# ") and " = " in line]
    named = {name for names in CHANGED_FIRST.values() for name in names}
    shown = [line for line in settings if line.partition(" = ")[0] in named]
    assert len(shown) == sum(map(len, CHANGED_FIRST.values()))
    defaults = Recipe().model_dump()
    for section, names in CHANGED_FIRST.items():
        assert all(f"{name} = {toml_value(defaults[section][name])}" in shown for name in names)


def test_the_schema_takes_every_recipe_and_no_other() -> None:
    validator = importlib.import_module("jsonschema").Draft202012Validator(recipe_schema())
    recipes = [*(ROOT / "examples").glob("*.toml"), *(ROOT / "tuneserve/recipes").glob("*.toml")]
    assert len(recipes) >= 3
    for path in recipes:
        assert list(validator.iter_errors(tomllib.loads(path.read_text()))) == []
    good: list[dict[str, Any]] = [
        {"train": {"compile": True, "target_modules": "all-linear"}},
        {"serve": {"gpu_layers": 3, "replicas": "auto"}},
        {"train": {"gpus": "all"}},
    ]
    for table in good:
        validate(table, where="")
        assert list(validator.iter_errors(table)) == []
    bad: list[dict[str, Any]] = [
        {"train": {"rank": 8}},
        {"trian": {}},
        {"train": {"r": 0}},
        {"train": {"gpus": 0}},
        {"serve": {"replicas": "some"}},
    ]
    for table in bad:
        assert list(validator.iter_errors(table))


def test_what_is_no_recipe_is_not_replaced(
    tuneserve: Runner, tmp_path: Path, tickets: Path
) -> None:
    """With --force too: the examples least of all."""
    fields = ("--fields", "instruction=Frage,output=Antwort", "--no-calibrate", "--force")
    before = tickets.read_bytes()
    (tmp_path / "thesis.tex").write_text("mine = [")
    (tmp_path / "requirements.txt").write_text("# pinned\n")
    for output in (tickets.name, "thesis.tex", "requirements.txt"):
        done = tuneserve(
            "init", "--file", tickets.name, "--base", "demo", *fields, "-o", output, cwd=tmp_path
        )
        assert done.returncode == 2
        assert "is no recipe, and is not replaced" in done.stderr
    assert tickets.read_bytes() == before
    assert (tmp_path / "thesis.tex").read_text() == "mine = ["
