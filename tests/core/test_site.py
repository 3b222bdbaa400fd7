"""The pages as a site: every page is reached, and links between pages lead within it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.support import ROOT

_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#[^)\s]*)?\)")


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


def test_every_page_is_in_the_navigation_once(site: ModuleType) -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    written = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert sorted(pages_of(settings["nav"])) == sorted([*written, *site.OUTER.values()])


@pytest.mark.parametrize("repository", [None, "https://example.org/me/tuneserve"])
def test_links_lead_to_pages_of_the_site(site: ModuleType, repository: str | None) -> None:
    inner = [path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md")]
    pages = {path.name for path in inner} | set(site.OUTER.values())
    links = set()
    for path in [*inner, *map(Path, site.OUTER)]:
        text = (ROOT / path).read_text("utf-8")
        links |= set(_LINK.findall(site.turned(text, (ROOT / path).parent, repository)))
    assert links <= pages | {"terminal.svg"}
    assert len(links) > 20
