"""Chat templates: the process that renders them, and the sandbox in it."""

from __future__ import annotations

import copy
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.target import BrokenInvariantError, Target, must
from tuneserve.chat.render_process import import_all
from tuneserve.chat.sandbox import Sandbox
from tuneserve.chat.template import ChatTemplate
from tuneserve.errors import TuneserveError

_CONVERSATION = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "q2"},
]


def _check_template(data: bytes) -> None:
    """As every stage renders: in a process, within limits."""
    source = data.decode("utf-8", "replace")
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    text = template.render(_CONVERSATION, add_generation_prompt=True)
    must(isinstance(text, str), "rendered to no text")


_PROCESSOR_SECONDS = 0.5
_MEMORY_BYTES = 256 << 20
_REACHES = ("open", "os.", "socket.", "subprocess.", "ctypes.", "import", "shutil.", "sys.")
"""How the names of audit events begin that no rendering causes."""
_reached: list[str] = []
_watching = False


class _TooLongError(Exception):
    """It takes more time than there is: the process that renders would be ended."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event.startswith(_REACHES):
        _reached.append(f"{event} {arguments!r}"[:200])


@contextmanager
def _limits() -> Iterator[None]:
    """Those of the process that renders, as far as this one can have them."""

    def late(_: int, frame: FrameType | None) -> None:
        raise _TooLongError

    statm = Path("/proc/self/statm").read_text(encoding="ascii")
    size = int(statm.split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, late)
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, _PROCESSOR_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def _check_sandbox(data: bytes) -> None:
    """A rendering reaches nothing outside the sandbox, and changes nothing that it is given."""
    global _watching
    # The interpreter can't be interrupted in the midst of a power.
    source = data.decode("utf-8", "replace").replace("**", "*")
    given = {"messages": copy.deepcopy(_CONVERSATION), "tools": None, "bos_token": "<s>",
             "eos_token": "</s>", "add_generation_prompt": True}  # fmt: skip
    before = copy.deepcopy(given)
    _reached.clear()
    try:
        with _limits():
            template = Sandbox(source)
            _watching = True
            text = template.render(given)
    except BrokenInvariantError:
        raise
    except Exception as error:
        # It is foreign code: whatever it raises is its failure.
        raise TuneserveError(str(error)) from None
    else:
        must(isinstance(text, str), "rendered to no text")
    finally:
        _watching = False
        must(not _reached, f"reached {_reached[:3]}")
        must(given == before, "what it was given has changed")


def _template_seeds() -> dict[str, bytes]:
    chatml = (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m.content | trim}}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    more = (
        "{%- set ns = namespace(n=0) -%}{%- macro f(x, y=1) -%}{{ x | tojson }}{%- endmacro"
        " -%}{{ bos_token }}{% for m in messages if m.role != 'system' %}{% set ns.n = ns.n + 1 %}"
        "{% if loop.first %}{{ f(m) }}{% elif m.content is string %}{{ m.content[:3] }}"
        "{% else %}{{ raise_exception('no') }}{% endif %}{% if ns.n > 5 %}{% break %}{% endif %}"
        "{% endfor %}{{ strftime_now('%Y') }}"
        "{% for i in range(3) %}{{ i ~ loop.index0 }}{% endfor %}"
    )
    return {"chatml": chatml.encode(), "more": more.encode()}


_TEMPLATE_WORDS = (
    b"{% for x in range(9) %}",
    b"{% endfor %}",
    b"{{ ",
    b" }}",
    b"{% if ",
    b"{% endif %}",
    b"namespace(",
    b"messages",
    b".__class__",
    b"['__globals__']",
    b"|tojson",
    b"|center(99)",
    b"|join(',')",
    b"|map(",
    b"|attr('format')",
    b"%s",
    b"*9",
    b"**9",
    b"~",
    b"lipsum()",
    b"cycler(",
    b"loop.",
    b"self.",
    b"{% macro f() %}",
    b"{% call f() %}",
    b"{% set x = ",
    b"{% include 'x' %}",
    b"{% import 'os' as o %}",
)
import_all()
sys.addaudithook(_audit)
TARGETS = (
    Target("template", _check_template, _template_seeds, _TEMPLATE_WORDS),
    Target("sandbox", _check_sandbox, _template_seeds, _TEMPLATE_WORDS),
)
