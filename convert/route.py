"""Who converts a base: the modules of this package, or llama.cpp's converter."""

from __future__ import annotations

from pathlib import Path

from tuneserve.convert.gguf.quantization import AUTO, NEEDS_IMATRIX
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import ARCHITECTURES, by_hf_name
from tuneserve.settings import ConvertSettings

_WAY_OUT = (
    "For another one name llama.cpp's converter: [convert] converter = "
    "'path/to/convert_hf_to_gguf.py'."
)


def uses_converter(architecture: str, settings: ConvertSettings, *, where: str) -> bool:
    """Is a base of this architecture (config.json's `architectures[0]`) left to the converter?

    Raises UsageError if it can't be converted without one and none is named, or if the one that is
    named is no file. `where`: the base.
    """
    if settings.converter is None:
        require_own_architecture(architecture, where=where)
        return False
    check_converter(settings.converter)
    theirs = not any(architecture in known.hf_names for known in ARCHITECTURES)
    if theirs and settings.quantization == AUTO:
        raise UsageError(
            "types can't be chosen by their divergence for what the converter makes",
            where="convert.quantization = 'auto'", hint="Take Q4_K_M, or another fixed type.",
        )  # fmt: skip
    return theirs


def require_own_architecture(architecture: str, *, where: str) -> None:
    """Raise UsageError, naming the way out, for an architecture that this package has no module
    for."""
    try:
        by_hf_name(architecture)
    except UsageError as error:
        hint = f"{error.hint} {_WAY_OUT}".strip()
        raise UsageError(error.message, where=where, hint=hint) from error


def check_quantization(settings: ConvertSettings) -> None:
    """Raise UsageError for a type that needs an importance matrix, where none is asked for."""
    wanted = settings.quantization
    if wanted in NEEDS_IMATRIX and not settings.imatrix:
        raise UsageError(
            f"{wanted} needs an importance matrix", where="quantization", hint="Add --imatrix."
        )


def check_converter(path: Path) -> None:
    """Raise UsageError if llama.cpp's converter is not there."""
    if not path.expanduser().is_file():
        raise UsageError(
            "no such file", where=f"convert.converter = {str(path)!r}",
            hint="Name convert_hf_to_gguf.py in a checkout of llama.cpp (docs/own-model.md).",
        )  # fmt: skip
