"""The gate: a conversion is not done until its result is shown to be the model that was trained.

checks.py says what a check is; tokens.py, template.py, generation.py and logits.py each hold the
checks of one contract; reference.py computes the trainer's own logits; verdict.py runs them all.
"""

from __future__ import annotations

from convert.gate.checks import Check, GateError
from convert.gate.verdict import Candidate, verify

__all__ = ["Candidate", "Check", "GateError", "verify"]
