"""From a checkpoint to a GGUF of one quantization: its types, what steers them, its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneserve.console import bytes_per_second, progress
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import AUTO, Choice
from tuneserve.convert.gguf.writer import CopiedTensor, encoded_size, write_gguf
from tuneserve.convert.imatrix import ImportanceMatrix, collect, training_chunks
from tuneserve.convert.mixture.limit import size_limit
from tuneserve.convert.verify.logits import open_model
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

LARGE_BYTES = 4 * 1024**3


def write_quantized(
    model: GGUFModel,
    path: Path,
    quantization: str,
    *,
    threads: int,
    matrix: ImportanceMatrix | None = None,
    matrix_file: str = "",
    copied: Mapping[str, CopiedTensor] | None = None,
    overrides: Mapping[str, str] | None = None,
    digests: dict[str, Sequence[bytes]] | None = None,
) -> list[Choice]:
    """Write a GGUF and show how far it is; returns the type of each tensor.

    `matrix` steers the quantization and is named in the metadata as `matrix_file`. Tensors in
    `copied` are taken from there instead of being made; `overrides`: types by tensor, other than
    the quantization's; `digests` gets the hashes of what was written.
    """
    choices = model.choices(quantization, has_imatrix=matrix is not None, overrides=overrides)
    metadata = model.metadata(quantization, overrides=overrides)
    if matrix is not None:
        metadata |= matrix.provenance(matrix_file)
    label = f"write {path.name}"
    with progress(label, 2 * model.parameters, rate=bytes_per_second) as advance:
        written = write_gguf(
            path, metadata, {**model.sources, **(copied or {})}, choices,
            threads=threads,
            importance=matrix.means() if matrix else None,
            advance=lambda values: advance(2 * values),  # bytes of 16-bit weights
        )  # fmt: skip
    if digests is not None:
        digests.update(written)
    return choices


def planned_bytes(model: GGUFModel, settings: ConvertSettings) -> int:
    """Bytes that the tensors of a conversion's GGUF take at most, as far as its settings say."""
    usual = quantized_bytes(model, settings.quantization)
    if settings.quantization != AUTO:
        return usual
    if settings.max_divergence:
        return quantized_bytes(model, "Q8_0")
    # No type that `auto` chooses is larger.
    return min(size_limit(settings, usual), quantized_bytes(model, "F16"))


def quantized_bytes(model: GGUFModel, quantization: str) -> int:
    """Bytes of the tensors of a GGUF of this quantization."""
    return sum(
        encoded_size(model.sources[choice.name].shape, choice.type)
        for choice in model.choices(quantization)
    )


def temporary_quantization(model: GGUFModel) -> str:
    """The quantization of a GGUF that is made to be run once: F16, or Q8_0 (which says nearly the
    same) where that would be large."""
    return "F16" if quantized_bytes(model, "F16") <= LARGE_BYTES else "Q8_0"


def measure_importance(
    path: Path, run: RunDirectory, tokens: int, *, threads: int
) -> ImportanceMatrix:
    """The importance matrix of about `tokens` tokens of a run's training examples, measured on a
    GGUF.

    Raises UsageError if there are too few examples.
    """
    with open_model(path) as model:
        chunks = training_chunks(model, run.split("train"), tokens, thoughts=run.thoughts)
        total = sum(map(len, chunks))
        with progress("importance matrix", total, unit="tokens") as advance:
            return collect(model, chunks, threads=threads, advance=advance)
