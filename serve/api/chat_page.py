"""The page at /: its modules in one file, since the page may load nothing."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "page"
# In the order in which they use each other.
_SCRIPTS = (
    "dom", "inline", "markdown", "store", "events", "api", "attach", "turns", "chat", "main",
)  # fmt: skip
POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere and talks to this server alone."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",  # Its token is this process's.
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" '
    'rx="3" fill="#0550ae"/><path d="M4 5h8M8 5v7" stroke="#fff" stroke-width="2"/></svg>'
)


def chat_page(token: str) -> str:
    """The page's HTML; `token` is what it has to send with its calls."""

    def read(name: str) -> str:
        return (_FOLDER / name).read_text(encoding="utf-8")

    scripts = "".join(f"<script>\n{read(f'{name}.js')}</script>\n" for name in _SCRIPTS)
    page = read("page.html").replace("PAGE_TOKEN", token)
    return page.replace("/* STYLE */", read("page.css")).replace("<!-- SCRIPTS -->", scripts)


SHARED = {
    "dom.js": ("$", "button", "copy", "download", "make"),
    "events.js": ("events",),
    "inline.js": ("inline",),
    "markdown.js": ("markdown",),
}
"""Scripts that the project's other pages use too, with the names that they have of them."""
_USED = {"inline.js": ("dom.js",), "markdown.js": ("dom.js", "inline.js")}


def shared_module(name: str) -> str:
    """One of SHARED as a module."""
    script = (_FOLDER / name).read_text(encoding="utf-8")
    used = "".join(
        f'import {{{", ".join(SHARED[other])}}} from "./{other}";\n'
        for other in _USED.get(name, ())
    )
    return f"{used}{script}\nexport {{{', '.join(SHARED[name])}}};\n"
