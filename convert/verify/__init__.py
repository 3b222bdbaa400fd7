"""Verification: a conversion fails unless its result is shown to be the model that was trained.

verify.py runs all checks. vocabulary.py, tensors.py, probe.py and generation.py hold the checks of
one contract each; reference.py computes the trainer's own logits by streamed_model.py with the
weights of weights.py, logits.py the file's. Nothing here takes memory for a whole model: weights
are read when they are multiplied with, and llama.cpp's stay in the mapped file.
"""

from __future__ import annotations

from tuneserve.convert.verify.verify import Candidate, VerificationError, verify

__all__ = ["Candidate", "VerificationError", "verify"]
