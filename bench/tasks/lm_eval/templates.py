"""What a task's fields make of its documents: columns, or Jinja templates rendered in a sandbox.

Templates see the columns of a document as variables; a name that is none of them is an error.
Blank lines and the last line's end stay as they are written.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tuneserve.bench.tasks.lm_eval.documents import Document
from tuneserve.errors import UsageError
from tuneserve.recipe import nearest

LONGEST_TEMPLATE = 256 * 1024


class FieldReader:
    """Reads fields of documents. `columns` are those of the documents that are asked, `place` says
    where a field stands ('file:line'); `choosing`: has the task answers to choose from? Then digits
    are the number of one."""

    def __init__(
        self, columns: Collection[str], place: Callable[..., str], *, choosing: bool
    ) -> None:
        self._columns, self._place, self._choosing = columns, place, choosing

    def texts(self, documents: Sequence[Document], field: int | str, *key: str) -> list[int | str]:
        """What is asked, or the number of the choice that stands for it. Raises UsageError for
        what is neither."""
        found = [self._number(value) for value in self._values(documents, field, *key)]
        for document, value in zip(documents, found, strict=True):
            if not isinstance(value, int | str) or isinstance(value, bool):
                raise _wrong(document, key, value, "a text")
        return found

    def targets(self, documents: Sequence[Document], field: Any, *key: str) -> list[Any]:
        """Reference answers: text, number of a choice, or a list of either."""
        if isinstance(field, list):
            return [field] * len(documents)
        found = []
        for value in self._values(documents, field, *key):
            value = self._number(value)
            if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
                value = _literal(value, value)
            found.append(value)
        return found

    def choices(self, documents: Sequence[Document], field: Any, *key: str) -> list[list[str]]:
        """The answers to choose from. Raises UsageError for what is no list of texts, or empty."""
        if isinstance(field, dict):
            field = list(field.values())
        if isinstance(field, list):
            rows: list[Any] = [field] * len(documents)
        else:
            rows = [
                value if field in self._columns or not isinstance(value, str) else _literal(value)
                for value in self._values(documents, field, *key)
            ]
        for document, row in zip(documents, rows, strict=True):
            if not isinstance(row, list) or not row:
                raise _wrong(document, key, row, "a list of choices")
            for choice in row:
                if not isinstance(choice, str) or not choice:
                    raise _wrong(document, key, choice, "choices that are texts (in quotes)")
        return rows

    def optional(
        self, documents: Sequence[Document], field: str | None, *key: str
    ) -> list[str | None]:
        """A text that need not be there (a description, a beginning of the answer)."""
        if not field:
            return [None] * len(documents)
        found = self._values(documents, field, *key)
        for document, value in zip(documents, found, strict=True):
            if value is not None and not isinstance(value, str):
                raise _wrong(document, key, value, "a text")
        return found

    def _number(self, value: Any) -> Any:
        return int(value) if self._choosing and _is_number(value) else value

    def _values(self, documents: Sequence[Document], field: int | str, *key: str) -> list[Any]:
        """The field's value for each document: of its column, or as text of its template."""
        if isinstance(field, int):
            return [field] * len(documents)
        if field not in self._columns:
            return list(_render(field, documents, self._place(*key), ".".join(key)))
        missing = next((each for each in documents if field not in each.values), None)
        if missing is not None:
            raise UsageError(
                f"{'.'.join(key)}: there is no '{field}' in it "
                f"({nearest(field, list(missing.values))})",
                where=missing.where,
            )
        return [document.values[field] for document in documents]


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10


def _literal(text: str, otherwise: Any = None) -> Any:
    """The value that a text writes in Python's notation; `otherwise` if it writes none."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return otherwise


def _wrong(document: Document, key: Sequence[str], value: Any, expected: str) -> UsageError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:79]}…"
    return UsageError(f"{'.'.join(key)}: expected {expected}, got {shown}", where=document.where)


def _render(source: str, documents: Sequence[Document], place: str, name: str) -> list[str]:
    """The template's text for each document. Raises UsageError where it can't be compiled, or fails
    for one of them."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(source) > LONGEST_TEMPLATE:
        raise UsageError(f"{name}: is longer than {LONGEST_TEMPLATE:,} characters", where=place)
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["regex_replace"] = _regex_replace
    try:
        template = environment.from_string(source)
    except jinja2.TemplateError as error:
        raise UsageError(f"{name}: the template can't be read: {error}", where=place) from error
    found = []
    for document in documents:
        try:
            found.append(template.render(document.values))
        except Exception as error:
            # Foreign code: whatever it raises is its failure, not ours.
            columns = ", ".join(document.values)
            raise UsageError(
                f"{name} (of {place}) fails here: {error}",
                where=document.where,
                hint=f"Columns: {columns}" if isinstance(error, jinja2.UndefinedError) else "",
            ) from error
    return found


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    """lm-eval's own filter of templates."""
    return re.sub(pattern, replacement, text, count=count)
