"""All checks of a conversion. The order is from the cause to its effects: a fault of the
vocabulary, for instance, shows in its own check before the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.chat.examples import Example, read_split
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import say
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import UNQUANTIZED
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import Digests
from tuneserve.convert.result import Check
from tuneserve.convert.slabs import one_blas_thread
from tuneserve.convert.verify.generation import check_ending
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.rows import ComparedWeights
from tuneserve.convert.verify.tables import check_tables
from tuneserve.convert.verify.templates import check_template
from tuneserve.convert.verify.tensors import (
    check_changed_tensors,
    check_merged_checkpoint,
    check_metadata,
    check_written,
)
from tuneserve.convert.verify.vocabulary import (
    TrainerTokenizer,
    check_special_tokens,
    check_token_ids,
)
from tuneserve.divergence import divergence
from tuneserve.errors import TuneserveError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel, physical_cores
from tuneserve.settings import ConvertSettings

TOKEN_EXAMPLES = 400
LOGIT_EXAMPLES = 8
LONGEST = 256
# Bytes that all compared logits may take: those of three reference models and two files.
LOGIT_BYTES = 512 * 1024 * 1024
POSITIONS = (128, 768)
# Two float32 computations of the same weights: only the order of the sums differs.
MERGE_LIMIT = 1e-6


@dataclass(frozen=True)
class Candidate:
    """What is to be verified: the files, and what they should hold. `thoughts` is the [data]
    setting of the training; `written`: by file, the hashes of what was written into it."""

    tuned: Path
    model: GGUFModel
    adapter: Path
    held_out: Path
    base: Path
    base_model: GGUFModel
    importance: Mapping[str, Floats] | None = None
    checkpoint: Path | None = None
    f16: Path | None = None
    thoughts: str = "train"
    written: Mapping[Path, Digests] = field(default_factory=dict)


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


def verify(candidate: Candidate, settings: ConvertSettings) -> tuple[list[Check], str]:
    """Run every check, also after one has failed.

    Returns the checks, in order, and a generated sample.
    """
    checks: list[Check] = []
    sample = ""
    threads = settings.threads or physical_cores()
    trainer = TrainerTokenizer(candidate.adapter, thoughts=candidate.thoughts)
    examples = read_split(candidate.held_out, limit=TOKEN_EXAMPLES)
    try:
        with one_blas_thread():
            say("verify: token ids, chat template, tensors")
            checks += vocabulary_checks(candidate.tuned, trainer, examples)
            checks += _tensor_checks(candidate, settings, threads)
            sample = _check_logits(candidate, settings, trainer, examples, checks, threads)
    except TuneserveError as error:
        checks.append(Check("the file loads", False, error.render().replace("\n", " ")))
    return checks, sample


def vocabulary_checks(
    path: Path, trainer: TrainerTokenizer, examples: Sequence[Example]
) -> list[Check]:
    """What needs no weights: tables of tokens, token ids, special tokens, chat template."""
    with LlamaModel(path, vocab_only=True) as vocabulary:
        return [
            check_tables(trainer.directory, GGUFFile(path)),
            check_token_ids(trainer, vocabulary, examples),
            check_special_tokens(trainer, vocabulary),
            check_template(trainer, vocabulary, examples),
        ]


def _tensor_checks(candidate: Candidate, settings: ConvertSettings, threads: int) -> list[Check]:
    quantization, importance = settings.quantization, candidate.importance

    def written(contract: str, path: Path, model: GGUFModel, kind: str) -> Check:
        weights = None if kind in UNQUANTIZED else importance
        choices = model.choices(kind, has_imatrix=weights is not None)
        return check_written(
            contract, TensorFile(path), model, choices, weights, candidate.written.get(path),
            threads=threads,
        )  # fmt: skip

    checks = [written("written as merged", candidate.tuned, candidate.model, quantization)]
    if candidate.f16 is not None:
        checks.append(written("F16 written as merged", candidate.f16, candidate.model, "F16"))
    checks += [
        written("base written as it is", candidate.base, candidate.base_model, quantization),
        check_metadata("metadata", TensorFile(candidate.tuned), candidate.model, quantization),
        check_metadata(
            "metadata of the base", TensorFile(candidate.base), candidate.base_model, quantization
        ),
        check_changed_tensors(candidate.tuned, candidate.base, candidate.model.changed),
    ]
    if candidate.checkpoint is not None:
        checks.append(
            check_merged_checkpoint(
                candidate.checkpoint, candidate.model.checkpoint, threads=threads
            )
        )
    return checks


def _check_logits(
    candidate: Candidate,
    settings: ConvertSettings,
    trainer: TrainerTokenizer,
    examples: Sequence[Example],
    checks: list[Check],
    threads: int,
) -> str:
    """Add the checks that compare logits to `checks`; returns a generated sample."""
    # PyTorch and transformers take seconds to import.
    from tuneserve.convert.verify.probe import check_probe
    from tuneserve.convert.verify.reference import reference_logits
    from tuneserve.convert.verify.weights import TrainerWeights

    quantization, model = settings.quantization, candidate.model
    chosen, sequences = choose_sequences(trainer, examples, model.vocabulary_size)
    say("verify: the trainer's logits (base, adapter on base, merged)")
    checkpoint = model.checkpoint
    read = (
        ComparedWeights(checkpoint, TensorFile(candidate.tuned), model),
        ComparedWeights(
            TrainerWeights(checkpoint.directory, tied=checkpoint.tied),
            TensorFile(candidate.base), candidate.base_model,
        ),
    )  # fmt: skip
    base, adapted, merged = reference_logits(
        model, candidate.adapter, sequences,
        threads=threads, merged_weights=read[0], base_weights=read[1],
    )  # fmt: skip
    checks += [
        read[0].check("every row"),
        read[1].check("every row of the base"),
        check_near("merged = adapter on base", adapted, merged, MERGE_LIMIT),
        _check_is_tuned(base, adapted, merged),
    ]
    say("verify: the files' logits")
    checks += check_probe(
        candidate.tuned, model, sequences, folder=candidate.tuned.parent,
        limit=settings.max_kld, threads=threads,
    )  # fmt: skip
    limit = settings.max_kld if quantization in UNQUANTIZED else settings.max_quantized_kld
    for contract, path, expected in (
        (f"{quantization} ≈ merged", candidate.tuned, merged),
        (f"base {quantization} ≈ base", candidate.base, base),
    ):
        found = file_logits(path, sequences, threads=threads)
        checks.append(check_near(contract, expected, found, limit))
    ending, sample = check_ending(
        candidate.tuned, chosen, adapted, longest=LONGEST, threads=threads
    )
    checks.append(ending)
    return sample


def choose_sequences(
    trainer: TrainerTokenizer, examples: Sequence[Example], vocabulary: int
) -> tuple[list[EncodedExample], list[list[int]]]:
    """Held-out examples, and their prompts with their answers, but for the end token, as ids:
    short ones first, as many tokens when all are filled up to the longest as LOGIT_BYTES hold
    logits of, within POSITIONS."""
    least, most = POSITIONS
    room = min(most, max(least, LOGIT_BYTES // (5 * 4 * vocabulary)))
    encoded = [trainer.encode_example(example) for example in examples[: 4 * LOGIT_EXAMPLES]]
    encoded.sort(key=lambda item: len(item.prompt) + len(item.answer))
    chosen: list[EncodedExample] = []
    sequences: list[list[int]] = []
    for item in encoded[:LOGIT_EXAMPLES]:
        kept = (item.prompt + item.answer)[:-1][-min(LONGEST, room) :]
        if sequences and (len(sequences) + 1) * len(kept) > room:
            break
        chosen.append(item)
        sequences.append(kept)
    if not sequences:
        raise TuneserveError("no held-out example to verify with")
    return chosen, sequences


def check_near(
    contract: str, reference: Sequence[Floats], found: Sequence[Floats], limit: float
) -> Check:
    lost = divergence(reference, found)
    return Check(contract, lost.mean <= limit, str(lost), lost.figures())


def _check_is_tuned(
    base: Sequence[Floats], adapted: Sequence[Floats], merged: Sequence[Floats]
) -> Check:
    """Are the merged weights nearer to what was trained than to the base? Compared before
    quantization, whose loss can be larger than what a short training changes."""
    effect, to_base = divergence(base, adapted), divergence(base, merged)
    to_trained = divergence(adapted, merged)
    figures = {"kld_from_base": to_base.mean, "kld_from_trained": to_trained.mean,
               "effect_of_training": effect.mean}  # fmt: skip
    if effect.mean == 0.0:
        return Check("tuned differs from base", False, "the adapter changes nothing", figures)
    return Check(
        "tuned differs from base",
        to_trained.mean < to_base.mean,
        f"KL divergence from the trained model {to_trained.mean:.2e}, from the base "
        f"{to_base.mean:.2e}",
        figures,
    )
