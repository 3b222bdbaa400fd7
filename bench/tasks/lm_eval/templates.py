"""What a task's fields make of its documents: columns, or Jinja templates.

Templates are rendered in a sandbox, in a process with a limit of time and memory. They see
the columns of a document as variables; a name that is none of them is an error. Blank lines and the
last line's end stay as they are written.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tuneserve.bench.tasks.lm_eval.documents import Document
from tuneserve.chat.render_process import as_json
from tuneserve.chat.renderers import RENDERERS, RenderLimitError
from tuneserve.chat.template import MAX_TEMPLATE_CHARACTERS
from tuneserve.errors import UsageError
from tuneserve.recipe import nearest


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
            self._require_column(field, *key)
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

    def _require_column(self, field: str, *key: str) -> None:
        """Raise UsageError for a text that is neither a column, a template nor a list: the name of
        a column that is not there."""
        if field in self._columns or "{" in field or isinstance(_literal(field), list):
            return
        known = list(self._columns)
        raise UsageError(
            f"{'.'.join(key)}: there is no column '{field}' ({nearest(field, known)})",
            where=self._place(*key),
            hint=f"Columns: {', '.join(known)}",
        )

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
    """The template's text for each document. Raises UsageError where it can't be compiled, fails
    for one of them, or takes too much time or memory."""
    from tuneserve.chat.sandbox import AS_TEXT

    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise UsageError(
            f"{name}: is longer than {MAX_TEMPLATE_CHARACTERS:,} characters", where=place
        )
    try:
        outcomes = RENDERERS.render(
            AS_TEXT + source, [as_json(document.values) for document in documents]
        )
    except RenderLimitError as error:
        raise UsageError(f"{name}: the template {error}", where=place) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{name}: a value is no JSON: {error}", where=place) from None
    found = []
    for document, (kind, text) in zip(documents, outcomes, strict=True):
        if kind == "broken":
            raise UsageError(f"{name}: the template can't be read: {text}", where=place)
        if kind != "text":
            reason = _LIMITS.get(kind, text)
            columns = ", ".join(document.values)
            raise UsageError(
                f"{name} (of {place}) fails here: {reason}",
                where=document.where,
                hint=f"Columns: {columns}" if " is undefined" in text else "",
            )
        found.append(text)
    return found


_LIMITS = {"memory": "it takes too much memory", "long": "it writes far more than it is given"}
