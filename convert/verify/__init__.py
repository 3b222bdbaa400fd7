"""The gate: a conversion is not done until its result is shown to be the model that was trained.

vocabulary.py, tensors.py, probe.py and generation.py hold the checks; reference.py computes the
trainer's own logits with the weights of weights.py; verify.py runs them all. Nothing here takes
memory for a whole model: weights are read when they are multiplied with, and llama.cpp's stay in
the mapped file.
"""

from __future__ import annotations

from tuneserve.convert.verify.verify import Candidate, VerificationError, verify

__all__ = ["Candidate", "VerificationError", "verify"]
