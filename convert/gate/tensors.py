"""Contract: the tuned file differs from the base's where the adapter changes it, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convert.gate.checks import Check
from convert.merge import MergedCheckpoint
from tuneserve.base.architectures import by_hf_name
from tuneserve.base.gguf_file import GGUFFile

CONTRACT = "changed tensors"


def check_changed_tensors(tuned: Path, base: Path, merged: MergedCheckpoint) -> Check:
    """Compare the two files' tensors byte by byte."""
    ours, theirs = GGUFFile(tuned), GGUFFile(base)
    architecture = by_hf_name(merged.architecture)
    names = {
        architecture.gguf_tensor_name(name) for name in merged.names if merged.is_changed(name)
    }
    differing, wrong = 0, []
    for name, tensor in ours.tensors.items():
        other = theirs.tensors.get(name)
        same = (
            other is not None
            and tensor.tensor_type == other.tensor_type
            and np.array_equal(tensor.data, other.data)
        )
        if name in names:
            differing += not same
        elif not same and other is not None:
            wrong.append(name)
    figures = {"adapted": len(names), "differing": differing, "wrongly_differing": len(wrong)}
    if wrong:
        return Check(CONTRACT, False, f"not adapted, yet unlike the base: {wrong[:5]}", figures)
    return Check(
        CONTRACT,
        differing > 0,
        f"{differing} of {len(names)} adapted tensors differ from the base's, the others are equal",
        figures,
    )
