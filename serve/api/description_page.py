"""The page at /docs: every path of the API, made here from its OpenAPI description. It loads
nothing, so it works without a network, and nobody else's script runs in this server's origin."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_STYLE = """
:root { color-scheme: light dark; background: Canvas; color: CanvasText; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 60rem; padding: 0 1rem;
       overflow-wrap: anywhere; }
h2 { font: 600 1rem ui-monospace, monospace; margin: 1.5rem 0 0; }
pre { overflow-x: auto; font-size: .85rem; } p { margin: .25rem 0; }
"""


def description_page(description: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    title = escape(description["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><main><h1>{title} {escape(description['info']['version'])}</h1>"
        f"<p>{escape(description['info'].get('description', ''))} "
        'All of it for machines: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(_parts(description))}</main></html>"
    )


def _parts(description: Mapping[str, Any]) -> Iterator[str]:
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            yield f"<h2>{escape(method.upper())} {escape(path)}</h2>"
            yield f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
            told = {
                key: operation[key] for key in ("parameters", "requestBody") if key in operation
            }
            told["responses"] = {
                status: answer["description"] for status, answer in operation["responses"].items()
            }
            yield _folded("Parameters, body and answers", told)
    yield "<h2>Types</h2>"
    for name, schema in description.get("components", {}).get("schemas", {}).items():
        yield _folded(name, schema)


def _folded(what: str, value: Any) -> str:
    shown = escape(json.dumps(value, indent=2, ensure_ascii=False))
    return (
        f"<details><summary>{escape(what)}</summary>"
        f'<pre tabindex="0" role="group" aria-label="{escape(what)}">{shown}</pre></details>'
    )
