"""What the pages tell people to type is what the program takes: commands, options, recipes."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.command_lines import check_words, options
from tests.support import ROOT
from tuneserve.recipe import load_recipe

PAGES = [
    page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
    if page.name != "commands.md"  # made from the program itself, which another test holds
]  # fmt: skip
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
# Of other programs that pages name.
_FOREIGN = {
    "--apply", "--backend", "--backend-store-uri", "--ipc", "--kl-divergence", "--logdir",
    "--modelfile", "--no",
    "--format", "--no-nextn", "--offline", "--part", "--shape", "--tokenizer", "--upgrade",
}  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [found[3] for found in _BLOCK.finditer(text) if found[2] == language]


def typed(page: Path) -> list[list[str]]:
    """The command lines after a `$`, as words without comments; continued lines put together."""
    found = []
    for block in blocks(page, "console"):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]
    return [_words(line) for line in found]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quotation that goes on over lines
        return line.split()


def of_program(words: list[str]) -> list[list[str]]:
    """The arguments of each `tuneserve` in a command line."""
    ends = [n for n, word in enumerate(words) if word in ("|", "&", "&&", ";", ">")] + [len(words)]
    starts = [n for n, word in enumerate(words[:-1]) if word == "tuneserve"]
    return [words[n + 1 : min(end for end in ends if end > n)] for n in starts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    for words in typed(page):
        for arguments in of_program(words):
            check_words(arguments)
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {name for code in _INLINE.findall(text) for name in _OPTION.findall(code)}
    assert named - options() <= _FOREIGN


def test_foreign_options_are_named_somewhere() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(_OPTION.findall(text)) >= _FOREIGN
    assert not _FOREIGN & options()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_what_they_say(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        if "[" in block:
            (tmp_path / "recipe.toml").write_text(block)
            assert tomllib.loads(block)
            load_recipe(tmp_path / "recipe.toml")
    for block in blocks(page, "json"):
        values = block.splitlines() if "\n{" in block else [block]  # JSONL, or one value
        assert all(map(json.loads, values))
    for block in blocks(page, "python"):
        ast.parse(block)
