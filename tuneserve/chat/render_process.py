"""The process that renders chat templates, which come from strangers' files.

It reads requests from stdin and writes answers to stdout, each a 4-byte length (big-endian) and
JSON. Before the first one it gives up what rendering does not need: it can open no file, write none
and take no more than MEMORY_BYTES. Each request may take the processor time that it names; then the
kernel ends the process, whatever the interpreter is at.

A request is two of them: `template` (a number), `source` and `compile_seconds` (where that number
is new), `seconds` (for each rendering) and `longest` (characters of a text); then a list of
variables for each rendering. The answer is a list of [kind, text] for each, the kind one of
OUTCOMES.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

from tuneserve.child_start import limit

MEMORY_BYTES = 512 << 20
"""Of address space. Of requests of 16 MB, 300,000 messages took 167 MB, 5 million lists 429 MB."""
LONGEST_REASON = 1000
OUTCOMES = ("text", "refused", "failed", "broken", "memory", "long")
"""A text; the template's own refusal; its failure; it can't be compiled; too much memory; too long
a text."""

Outcome = tuple[str, str]


def _read_frame(file: BinaryIO) -> Any:
    """The next frame's value; None at the end of the file."""
    head = file.read(4)
    return from_json(file.read(int.from_bytes(head))) if len(head) == 4 else None


def as_json(value: Any) -> bytes:
    """A value as JSON. Raises ValueError, TypeError and RecursionError for one that has none."""
    # Lone surrogates, which JSON from elsewhere can hold, stay what they are.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def frame(data: bytes) -> bytes:
    """Bytes with their length in front."""
    return len(data).to_bytes(4) + data


def from_json(data: bytes) -> Any:
    """The value. Raises ValueError and RecursionError."""
    return json.loads(data.decode("utf-8", "surrogatepass"))


class Template(Protocol):
    """A compiled template."""

    def render(self, variables: Mapping[str, Any]) -> str: ...


class _Templates:
    """The compiled templates by number, or why one can't be."""

    def __init__(self, compiled: Callable[[str], Template]) -> None:
        self._compiled = compiled
        self._known: dict[int, Any] = {}

    def define(self, number: int, source: str, seconds: float) -> None:
        # Its own signal says which of the two took too long; the other timer counts the kernel too.
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        _allow(2 * seconds)
        self._known[number] = _attempt(lambda: self._compiled(source), "broken")
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def render(self, number: int, variables: dict[str, Any], longest: int) -> Outcome:
        template = self._known[number]
        if isinstance(template, tuple):
            return template
        outcome = _attempt(lambda: template.render(variables), "failed")
        if isinstance(outcome, tuple):
            return outcome
        return ("long", "") if len(outcome) > longest else ("text", outcome)


def _attempt(work: Callable[[], Any], kind: str) -> Any:
    """What foreign code makes, or how it ended."""
    from tuneserve.chat.sandbox import RefusedError

    try:
        return work()
    except RefusedError as error:
        return "refused", str(error)[:LONGEST_REASON]
    except MemoryError:
        return "memory", ""
    except Exception as error:
        # It is foreign code: whatever it raises is its failure, not ours.
        return kind, (str(error) or type(error).__name__)[:LONGEST_REASON]


def _allow(seconds: float) -> None:
    """Let the kernel end this process after so much more processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def import_all() -> None:
    """Import what filters import when they are called, and could not be read any more then."""
    for module in ("html", "jinja2.constants", "jinja2.debug", "pprint", "textwrap"):
        importlib.import_module(module)
    time.strftime("%c", time.localtime())


def _give_up_rights() -> None:
    import_all()
    limit({"memory": MEMORY_BYTES, "files": 3, "written": 0})


def main(compiled: Callable[[str], Template]) -> None:
    """Answer until stdin ends, with what `compiled` makes of a template's source."""
    # Ctrl-C and SIGTERM reach the whole group: who started this process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    templates = _Templates(compiled)
    templates.define(
        -1, "{{ strftime_now('%c') }}{% for m in messages %}{{ m | tojson }}{% endfor %}", 60.0
    )
    templates.render(-1, {"messages": [{"role": "user", "content": "é"}]}, 1000)
    _give_up_rights()
    _allow(0)
    while (request := _read_frame(requests)) is not None:
        calls = _read_frame(requests)
        number, source = request["template"], request.get("source")
        if source is not None:
            templates.define(number, source, request["compile_seconds"])
        outcomes = []
        for variables in calls:
            _allow(request["seconds"])
            outcomes.append(templates.render(number, variables, request["longest"]))
        answers.write(frame(as_json(outcomes)))
        answers.flush()
        _allow(0)


if __name__ == "__main__":
    from tuneserve.chat.sandbox import Sandbox

    main(Sandbox)
