"""How far the quantization takes the base from itself: a contract of every conversion that needs
no training (`base Q4_K_M ≈ base`), measured before one where that takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.chat.examples import Example
from tuneserve.console import human_bytes
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import UNQUANTIZED, Choice
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.resources import SPARE_DISK, free_disk, uses_imatrix, worker_threads
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.make_reference import choose_sequences
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.divergence import divergence
from tuneserve.findings import Finding
from tuneserve.settings import Recipe

PARAMETERS_PER_THREAD, MOST_PARAMETERS = 75_000_000, 500_000_000
"""Of a base that is quantized and compared here. One of 135 million takes 8 s with two threads."""
_SEQUENCES = 4
_NAME = "quantized base, measured"


def check_rounded(
    model: GGUFModel,
    tokenizer: Path,
    examples: Sequence[Example],
    recipe: Recipe,
    folder: Path,
) -> Finding | None:
    """The mean KL divergence of the base's quantized file from its weights, both by llama.cpp, on
    some of the examples. None where nothing is to be measured: without examples, without rounding,
    of a base that would take long, and with an importance matrix, which is the training's. The
    files are written into `folder` and removed."""
    settings = recipe.convert
    kind, threads = settings.quantization, worker_threads(settings)
    most = min(MOST_PARAMETERS, PARAMETERS_PER_THREAD * threads)
    if not examples or kind in UNQUANTIZED or uses_imatrix(settings) or model.parameters > most:
        return None
    needed = SPARE_DISK + 4 * model.parameters
    if (free := free_disk(folder)) < needed:
        return Finding(
            _NAME, "note", f"not measured: it takes {human_bytes(needed)}, and {human_bytes(free)} "
            f"are free in {folder.parent}",
            "Set TMPDIR to a folder with more room.",
        )  # fmt: skip
    trainer = TrainerTokenizer(tokenizer, thoughts=recipe.data.thoughts)
    sequences = choose_sequences(trainer, examples, model.vocabulary_size)[1][:_SEQUENCES]

    def logits(quantization: str | None) -> list[Floats]:
        """None: as the weights are, in float32, which holds those of every base."""
        path = folder / f"base-{quantization or 'F32'}.gguf"
        try:
            if quantization is None:
                exact = [Choice(name, "F32") for name in model.sources]
                write_gguf(path, model.metadata("F16"), model.sources, exact, threads=threads)
            else:
                write_quantized(model, path, quantization, threads=threads)
            return file_logits(path, sequences, threads=threads)
        finally:
            path.unlink(missing_ok=True)

    found, limit = divergence(logits(None), logits(kind)), settings.max_quantized_kld
    shown = f"{kind}, {len(sequences)} examples: {found}; at most {limit:g} (max_quantized_kld)"
    if found.mean <= limit:
        return Finding(_NAME, "ok", shown)
    return Finding(
        _NAME, "refused", shown,
        "Set [convert] quantization to a finer type (Q5_K_M, Q6_K, Q8_0), imatrix = true, or a "
        "higher max_quantized_kld.",
    )  # fmt: skip
