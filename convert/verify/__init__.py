"""The gate: a conversion is not done until its result is shown to be the model that was trained.

checks.py says what a check is; tokens.py, template.py, written.py, tensors.py, probe.py and
generation.py each hold the checks of one contract; reference.py computes the trainer's own logits
through streamed.py, with the weights of weights.py; verdict.py runs them all. Nothing here takes
memory for a whole model: weights are read when they are multiplied with, and llama.cpp's stay in
the mapped file.
"""

from __future__ import annotations

from tuneserve.convert.verify.verify import Candidate, VerificationError, verify

__all__ = ["Candidate", "VerificationError", "verify"]
