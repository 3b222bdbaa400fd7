"""The notebook for hosted GPUs: its form, its Python, and the commands that its cells type."""

from __future__ import annotations

import ast
import json
import re
import shlex
from typing import Any

import pytest

from tests.command_lines import check_words, parsed
from tests.core.test_docs_commands import of_program
from tests.support import ROOT
from tuneserve.serve.api.protocol import ChatRequest

PATH = ROOT / "examples" / "notebook.ipynb"
_NAMES = {"CONFIG": "examples/deepseek-r1-distill-llama-8b.toml", "RUN": "deepseek"}
STAGES = ["doctor", "data", "plan", "preview", "train", "convert", "bench", "serve"]


@pytest.fixture(scope="module")
def notebook() -> Any:
    return json.loads(PATH.read_text(encoding="utf-8"))


def sources(notebook: Any, kind: str) -> list[str]:
    """The cells of a kind; a line that goes on in the next is one."""
    found = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]
    return [text.replace("\\\n", " ") for text in found]


def python_of(source: str) -> str:
    """A cell without the lines that IPython takes for itself."""
    return "\n".join("" if line[:1] in "!%" else line for line in source.splitlines())


def typed(notebook: Any) -> list[list[str]]:
    """The command lines behind `!`, and those that Python starts, with the notebook's names."""
    found: list[list[str]] = []
    for source in sources(notebook, "code"):
        named = re.sub(r"\{(\w+)\}", lambda name: _NAMES.get(name[1], "x"), source)
        found += map(shlex.split, re.findall(r"^!(.*)$", named, re.MULTILINE))
        for node in ast.walk(ast.parse(python_of(source))):
            if isinstance(node, ast.List) and isinstance(node.elts[0], ast.Constant):
                words = [
                    str(one.value) if isinstance(one, ast.Constant)
                    else _NAMES[one.id] if isinstance(one, ast.Name) else "1"
                    for one in node.elts
                ]  # fmt: skip
                found.append(words)
    return found


def test_it_is_a_notebook(notebook: Any) -> None:
    """Of format 4.5, and without what a run would leave in it."""
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    for cell in notebook["cells"]:
        common = {"cell_type", "id", "metadata", "source"}
        code = cell["cell_type"] == "code"
        assert set(cell) == (common | {"execution_count", "outputs"} if code else common)
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert not code or (cell["execution_count"], cell["outputs"]) == (None, [])


def test_the_format_s_own_check_passes(notebook: Any) -> None:
    pytest.importorskip("nbformat").validate(notebook)


def test_a_sentence_stands_before_each_cell(notebook: Any) -> None:
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds == ["markdown"] + ["markdown", "code"] * (len(kinds) // 2)
    for text in sources(notebook, "markdown")[1:]:
        assert re.fullmatch(r"[^\n]+[.]", text)
        assert not re.search(r"[.] [A-Z]", text)


def test_its_commands_are_taken(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = typed(notebook)
    stages = []
    for words in commands:
        for arguments in of_program(words):
            check_words(arguments)
            stages.append(arguments[0])
    assert stages == STAGES
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = [words[1:] for words in commands if words[0] == "make"]
    assert made == [["setup"]]
    assert {*made[0]} <= targets
    assert {words[0] for words in commands} == {"apt-get", "git", "make", "tar", "tuneserve"}


def test_its_names_are_those_that_the_commands_get(notebook: Any) -> None:
    assigned: dict[str, str] = {}
    for source in sources(notebook, "code"):
        for node in ast.parse(python_of(source)).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                assert isinstance(node.targets[0], ast.Name)
                assigned[node.targets[0].id] = str(node.value.value)
    assert {name: assigned[name] for name in _NAMES} == _NAMES
    assert (ROOT / assigned["CONFIG"]).is_file()
    recipe, _ = parsed(["train", "--config", str(ROOT / assigned["CONFIG"])])
    assert recipe.train.r == 16


def test_its_question_is_one_that_the_server_takes(notebook: Any) -> None:
    (call,) = (
        node
        for source in sources(notebook, "code")
        for node in ast.walk(ast.parse(python_of(source)))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("completions.create")
    )
    given = {
        word.arg: _NAMES["RUN"]
        if isinstance(word.value, ast.Name)
        else ast.literal_eval(word.value)
        for word in call.keywords
    }
    assert ChatRequest.model_validate(given).model == "deepseek"
