"""The error of a conversion whose checks fail."""

from __future__ import annotations

from collections.abc import Sequence

from tuneserve.convert.result import Check
from tuneserve.errors import TuneserveError

__all__ = ["PROBE_BYTES", "Check", "VerificationError"]

PROBE_BYTES = 1024**3  # the largest probe: a temporary GGUF of some of the model's layers


class VerificationError(TuneserveError):
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
