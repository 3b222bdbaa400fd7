"""SECURITY.md: every promise names its tests, and they are there; the bounds are what it says."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache

from packaging.requirements import Requirement
from packaging.version import Version

from tests.support import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_BOUND = re.compile(r"\b([\w-]+)\s+before\s+(\d[\d.]*\d|\d)")


@cache
def functions_of(place: str) -> frozenset[str]:
    tree = ast.parse((ROOT / place).read_text(encoding="utf-8"))
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


def promises() -> list[str]:
    """The bullets of the sections that promise something."""
    start = PAGE.index("### A web page")
    text = PAGE[start : PAGE.index("## What is not promised")]
    text += PAGE[PAGE.index("## Dependencies") :]
    found = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
    return [one.split("\n\n")[0] for one in found]


def test_every_promise_names_tests_that_are_there() -> None:
    assert len(promises()) > 20
    for promise in promises():
        named = _TEST.findall(promise)
        assert named, promise
        for place, name in named:
            assert (ROOT / place).is_file(), place
            assert name in functions_of(place), f"{place}::{name}"


def test_a_promise_without_a_test_is_found() -> None:
    assert not _TEST.findall("Nothing happens. tests/core/test_run.py")
    assert "test_nothing" not in functions_of("tests/core/test_run.py")


def test_lower_bounds_are_those_that_the_page_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in extras for line in extras[name])]
    lowest: dict[str, Version] = {}
    for line in lines:
        requirement = Requirement(line)
        for bound in requirement.specifier:
            if bound.operator in (">=", "=="):
                name = requirement.name.lower()
                version = Version(bound.version)
                lowest[name] = min(version, lowest.get(name, version))
    named = _BOUND.findall(PAGE[PAGE.index("## Dependencies") :])
    assert len(named) >= 12
    for name, version in named:
        assert lowest[name.lower()] == Version(version), name


def test_the_page_for_operators_names_options_that_are_there() -> None:
    from tuneserve.cli.serve import command

    known = {flag for parameter in command.params for flag in parameter.opts}
    text = (ROOT / "docs" / "running-for-others.md").read_text(encoding="utf-8")
    table = text[text.index("## Keys") : text.index("## TLS")] + text[text.index("## Limits") :]
    options = set(re.findall(r"`(--[a-z-]+)", table))
    assert len(options) > 15
    # Options of other commands.
    assert options - known - {"--config", "--run"} == set()
