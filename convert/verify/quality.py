"""Contract: the tuned file differs from the base's where the adapter changes it, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from tuneserve.convert.verify.checks import Check
from tuneserve.gguf.reader import GGUFFile, GGUFTensor

CONTRACT = "changed tensors"
PIECE = 16 * 1024 * 1024


def check_changed_tensors(tuned: Path, base: Path, names: set[str]) -> Check:
    """Compare the two files' tensors byte by byte; `names`: those the adapter changes."""
    ours, theirs = GGUFFile(tuned).tensors, GGUFFile(base).tensors
    differing, wrong = 0, []
    with tuned.open("rb") as our_file, base.open("rb") as their_file:
        for name, tensor in ours.items():
            other = theirs.get(name)
            same = other is not None and _same_bytes(our_file, tensor, their_file, other)
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


def _same_bytes(
    our_file: BinaryIO, ours: GGUFTensor, their_file: BinaryIO, theirs: GGUFTensor
) -> bool:
    if (ours.type, ours.size) != (theirs.type, theirs.size):
        return False
    for done in range(0, ours.size, PIECE):
        count = min(PIECE, ours.size - done)
        our_file.seek(ours.offset + done)
        their_file.seek(theirs.offset + done)
        if our_file.read(count) != their_file.read(count):
            return False
    return True
