"""What the pages say of the tree is there: files, folders, functions, links."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

ABOUT_CODE = ("docs/architecture.md", "docs/how-it-works.md", "CONTRIBUTING.md")
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
)

_FILE = re.compile(r"(?<![\w/.-])((?:[\w-]+/)+\w+\.py)(?::([A-Za-z_][\w.]*\w))?")
_FOLDER = re.compile(r"`((?:finetune|convert|serve|bench|tuneserve|tests|docs)/(?:[\w-]+/)*)`")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@cache
def names_in(path: Path) -> frozenset[str]:
    """The functions, classes, methods ('Class.method') and constants of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return frozenset(found)


def missing(text: str) -> list[str]:
    """The files, functions and folders named in a text that are not there."""
    wrong = [name for name in _FOLDER.findall(text) if not (ROOT / name).is_dir()]
    for name, function in _FILE.findall(text):
        path = ROOT / name
        if not path.is_file():
            wrong.append(name)
        elif function and function not in names_in(path):
            wrong.append(f"{name}:{function}")
    return wrong


@pytest.mark.parametrize("page", ABOUT_CODE)
def test_every_file_and_function_named_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert _FILE.search(text)
    assert missing(text) == []


def test_what_is_not_there_is_found() -> None:
    text = (
        "`serve/engine/engine.py:Engine.submit`, `serve/engine/engine.py:Engine.vanish`, "
        "`serve/engine/engine.py:submit`, serve/nowhere.py, `serve/rooms/`, `serve/engine/`"
    )
    assert missing(text) == [
        "serve/rooms/",
        "serve/engine/engine.py:Engine.vanish",
        "serve/engine/engine.py:submit",
        "serve/nowhere.py",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = _LINK.findall(text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
