"""Arguments of calls, from the style in which a model writes them to JSON text, as they come."""

from collections.abc import Mapping
from typing import Any

from tuneserve.chat.argument_styles import ArgumentStyle, BareKeys, Python, Tagged
from tuneserve.serve.chat.call_arguments.bare_keys import BareKeysReader
from tuneserve.serve.chat.call_arguments.json_object import ObjectEnd, ObjectReader
from tuneserve.serve.chat.call_arguments.python import PythonReader
from tuneserve.serve.chat.call_arguments.tagged import TaggedReader

ArgumentReader = ObjectReader | TaggedReader | PythonReader | BareKeysReader
"""`feed(text)` takes all that is not yet read and returns (JSON text that it completes, the text
that is left, whether the arguments have ended before it)."""


def argument_reader(
    style: ArgumentStyle | None, schema: Mapping[str, Any] | None
) -> ArgumentReader:
    """For the arguments of one call; `schema` is that of its function."""
    match style:
        case Tagged():
            return TaggedReader(style, schema or {})
        case Python():
            return PythonReader()
        case BareKeys(quote):
            return BareKeysReader(quote)
    return ObjectReader()


__all__ = ["ArgumentReader", "ObjectEnd", "argument_reader"]
