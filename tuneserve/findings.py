"""What a look at a machine or a model found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuneserve.console import stderr_console
from tuneserve.visible import visible

Status = Literal["ok", "note", "missing", "refused"]
_STYLES = {"ok": "green", "note": "yellow", "missing": "red", "refused": "red"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `advice` says what to do where the status is not 'ok'."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings; `ready`: nothing that is needed is missing or refused."""

    ready: bool
    findings: list[Finding]

    @classmethod
    def of(cls, findings: list[Finding]) -> Diagnosis:
        return cls(all(one.status in ("ok", "note") for one in findings), findings)


def show_findings(findings: list[Finding]) -> None:
    """A line for each on the terminal, with the advice below it."""
    console = stderr_console()
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        style, padding = _STYLES[finding.status], " " * (8 - len(finding.status))
        console.print(f"[{style}]{finding.status}[/]{padding}", end="")
        console.print(f"{visible(finding.name):<{width}}  ", end="", markup=False)
        console.print(visible(finding.found), markup=False)
        if finding.advice:
            console.print(f"{'':<{width + 10}}→ {visible(finding.advice)}", markup=False)
