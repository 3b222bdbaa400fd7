"""What the scripts of all Python clients share: where the server is, and how a check is reported.

A script calls `run(package, check, …)`. Each check is a function that uses the library's own calls
and raises where the answer has not the shape that a user of the library expects. One line of JSON
is printed for each check: {"client", "version", "check", "ok", "reason", "seconds"}.
"""

import asyncio
import contextlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

URL = os.environ.get("TUNESERVE_URL", "http://127.0.0.1:8080")
V1 = f"{URL}/v1"
MODEL = os.environ.get("TUNESERVE_MODEL", "demo")
KEY = os.environ.get("TUNESERVE_KEY", "none")
TOKENS = 48
"""Tokens of an answer whose text is free: enough to have a shape."""

QUESTION = "Say hello to the harbour of Genoa."

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city in the coming days.",
        "parameters": PARAMETERS,
    },
}


# Bounded for the same reason, and because libraries write such bounds into the tool's schema.
def weather(
    city: Annotated[str, Field(max_length=20)],
    days: Annotated[int, Field(ge=1, le=7)],
    unit: Literal["celsius", "fahrenheit"],
) -> str:
    """The weather of a city in the coming days.

    Args:
        city: name of the city
        days: number of days
        unit: unit of the temperatures
    """
    return f"{city}: {days} days of sun, 21 degrees {unit}"


class Person(BaseModel):
    """A structured answer. All of it is bounded, so that a model without sense ends it too."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    languages: list[Literal["English", "Italian"]] = Field(max_length=2)


def check_arguments(arguments: str | dict[str, Any]) -> None:
    """Are these the arguments of `weather`, as its schema has them?"""
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert set(given) == {"city", "days", "unit"}, f"arguments {given}"
    assert 1 <= given["days"] <= 7, f"days {given['days']}"
    assert given["unit"] in ("celsius", "fahrenheit"), f"unit {given['unit']}"


def check_text(text: Any) -> None:
    assert isinstance(text, str), f"no text but {text!r}"
    assert text, "an empty text"


def check_vector(vector: Any) -> None:
    assert len(vector) > 1, "an empty vector"
    assert any(value != 0 for value in vector), "a vector of zeros"


def run(package: str, *checks: Callable[[], Any], name: str = "") -> None:
    """Run the checks of the client that `package` distributes; exit code 1 if one fails."""
    failed = 0
    for check in checks:
        started = time.perf_counter()
        reason = ""
        # A library's own prints must not get between the lines of JSON.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                result = check()
                if inspect.iscoroutine(result):
                    asyncio.run(result)
            except Exception as error:  # whatever a library raises is the finding
                reason = describe(error)
                failed += 1
        line = {
            "client": name or package,
            "version": version(package),
            "check": check.__name__.strip("_").replace("_", " "),
            "ok": not reason,
            "reason": reason,
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(json.dumps(line), flush=True)
    sys.exit(1 if failed else 0)


def describe(error: BaseException) -> str:
    """The error in one line; of a long one its beginning and its end."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-155:]}"
