"""One check's outcome, and the error of a gate that stays shut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tuneserve.errors import TuneserveError

PROBE_BYTES = 1024**3  # the probe, a temporary file, holds this much of the model's layers


@dataclass(frozen=True)
class Check:
    """`contract` names what must hold; `detail` says what was found; `figures` are for programs."""

    contract: str
    passed: bool
    detail: str
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class GateError(TuneserveError):
    """The converted model failed verification; nothing was left under the final name."""

    def __init__(self, checks: Sequence[Check], where: str) -> None:
        failed = [check for check in checks if not check.passed]
        super().__init__(
            f"the converted model failed verification ({len(failed)} of {len(checks)} checks)",
            where=where,
            problems=[f"{check.contract}: {check.detail}" for check in failed],
            hint="No GGUF was left behind.",
        )
        self.checks = list(checks)
