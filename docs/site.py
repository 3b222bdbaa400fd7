"""Hook of mkdocs: the pages at the top of the repository are pages of the site too.

README.md is its index; links between these pages and those of docs/ are turned round. A link to a
file that is no page leads to the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTER = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, page in OUTER.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    outer = {page: name for name, page in OUTER.items()}.get(page.file.src_uri)
    return turned(markdown, ROOT if outer else ROOT / "docs", config.repo_url)


def turned(markdown: str, folder: Path, repository: str | None) -> str:
    """The links of a page in `folder` as they are within the site."""

    def link(found: re.Match[str]) -> str:
        target = (folder / found[1]).resolve()
        anchor = found[2] or ""
        if not target.is_relative_to(ROOT):
            return found[0]
        name = target.relative_to(ROOT).as_posix()
        if name in OUTER:
            return f"]({OUTER[name]}{anchor})"
        if target.suffix in (".md", ".svg") and target.parent == ROOT / "docs":
            return f"]({target.name}{anchor})"
        # Without a repository's address there is nothing to lead to.
        return f"]({repository}/blob/main/{name}{anchor})" if repository else "](#)"

    return _LINK.sub(link, markdown)
