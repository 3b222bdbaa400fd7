"""All checks of a conversion. The order is from the cause to its effects: a fault of the
vocabulary, for instance, shows in its own check before the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.chat.examples import Example, read_split
from tuneserve.console import say
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import UNQUANTIZED
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import Digests
from tuneserve.convert.result import Check
from tuneserve.convert.slabs import one_blas_thread
from tuneserve.convert.verify.gain import check_gain
from tuneserve.convert.verify.generation import check_ending
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.make_reference import LONGEST, make_reference
from tuneserve.convert.verify.measured import Measured, Reference
from tuneserve.convert.verify.recorded import TrainedLosses
from tuneserve.convert.verify.rows import ComparedWeights
from tuneserve.convert.verify.tables import check_tables
from tuneserve.convert.verify.templates import check_template
from tuneserve.convert.verify.tensors import (
    check_changed_tensors,
    check_merged_checkpoint,
    check_metadata,
    check_written,
)
from tuneserve.convert.verify.update import measure_updates
from tuneserve.convert.verify.vocabulary import (
    TrainerTokenizer,
    check_special_tokens,
    check_token_ids,
)
from tuneserve.divergence import divergence
from tuneserve.errors import TuneserveError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel, physical_cores
from tuneserve.model_shape import expert_count
from tuneserve.settings import ConvertSettings

TOKEN_EXAMPLES = 400
# Two float32 computations of the same weights: only the order of the sums differs.
MERGE_LIMIT = 1e-6
# A file's divergence from the tuned model may be this many times that of the base's file from the
# base, or this share of the tuned model's from the base, if that is more.
BASE_TIMES = 4.0
EFFECT_SHARE = 0.5


@dataclass(frozen=True)
class Candidate:
    """What is to be verified: the files, and what they should hold. `thoughts` is the [data]
    setting of the training; `overrides` are types of tensors other than the quantization's;
    `recorded` are the losses that training recorded; `written`:
    by file, the hashes of what was written into it."""

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
    overrides: Mapping[str, str] = field(default_factory=dict)
    recorded: TrainedLosses | None = None
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


def verify(
    candidate: Candidate, settings: ConvertSettings, measured: Measured | None = None
) -> tuple[list[Check], str]:
    """Run every check, also after one has failed.

    Returns the checks, in order, and a generated sample; `measured` gets the figures behind them.
    """
    measured = Measured() if measured is None else measured
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
            sample = _check_logits(candidate, settings, trainer, examples, checks, measured)
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
        choices = model.choices(
            kind, has_imatrix=weights is not None, overrides=candidate.overrides
        )
        return check_written(
            contract, TensorFile(path), model, choices, weights, candidate.written.get(path),
            threads=threads,
        )  # fmt: skip

    checks = [written("written as merged", candidate.tuned, candidate.model, quantization)]
    if candidate.f16 is not None:
        checks.append(written("F16 written as merged", candidate.f16, candidate.model, "F16"))
    checks += [
        written("base written as it is", candidate.base, candidate.base_model, quantization),
        check_metadata(
            "metadata",
            TensorFile(candidate.tuned),
            candidate.model,
            quantization,
            candidate.overrides,
        ),
        check_metadata(
            "metadata of the base",
            TensorFile(candidate.base),
            candidate.base_model,
            quantization,
            candidate.overrides,
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
    measured: Measured,
) -> str:
    """Add the checks that compare logits to `checks`; returns a generated sample."""
    # PyTorch and transformers take seconds to import.
    from tuneserve.convert.verify.probe import check_probe
    from tuneserve.convert.verify.reference import trainer_weights

    threads = settings.threads or physical_cores()
    quantization, model = settings.quantization, candidate.model
    read = (
        ComparedWeights(trainer_weights(model), TensorFile(candidate.base), candidate.base_model),
        ComparedWeights(model.checkpoint, TensorFile(candidate.tuned), model),
    )
    if measured.reference is None:
        measured.reference = make_reference(
            model,
            candidate.adapter,
            trainer,
            examples,
            threads=threads,
            thoughts=candidate.thoughts,
            recorded=candidate.recorded,
            read=read,
        )
    reference = measured.reference
    sequences = reference.sequences
    checks += [
        read[1].check("every row", threads=threads),
        read[0].check("every row of the base", threads=threads),
        check_near("merged = adapter on base", reference.adapted, reference.merged, MERGE_LIMIT),
        check_is_tuned(reference.base, reference.adapted, reference.merged),
        *reference.as_trained,
    ]
    say("verify: the files' logits")
    checks += check_probe(
        TensorFile(candidate.tuned), model, sequences, folder=candidate.tuned.parent,
        limit=settings.max_kld, threads=threads,
    )  # fmt: skip
    # Of a mixture of experts some tokens go through another expert after any rounding.
    exact = quantization in UNQUANTIZED and not expert_count(model.config)
    limit = settings.max_kld if exact else settings.max_quantized_kld
    found = file_logits(candidate.tuned, sequences, threads=threads)
    of_base = file_logits(candidate.base, sequences, threads=threads)
    near_base = check_near(f"base {quantization} ≈ base", reference.base, of_base, limit)
    checks += [
        _check_near_tuned(f"{quantization} ≈ merged", reference, found, limit, near_base),
        near_base,
        _check_gain(candidate, settings, measured, found),
    ]
    ending, sample = check_ending(
        candidate.tuned, reference.chosen, reference.adapted, longest=LONGEST, threads=threads
    )
    checks.append(ending)
    return sample


def _check_gain(
    candidate: Candidate, settings: ConvertSettings, measured: Measured, found: Sequence[Floats]
) -> Check:
    """`found`: the file's logits of the reference's sequences."""
    threads = settings.threads or physical_cores()
    measured.updates = measure_updates(
        TensorFile(candidate.tuned), TensorFile(candidate.base), candidate.model,
        candidate.base_model, threads=threads,
    )  # fmt: skip
    gain = measured.score(
        candidate.tuned, found, base=candidate.base, limit=settings.min_gain_kept, threads=threads
    )
    return check_gain(gain, measured.updates, settings.min_gain_kept)


def check_near(
    contract: str, reference: Sequence[Floats], found: Sequence[Floats], limit: float
) -> Check:
    lost = divergence(reference, found)
    return Check(contract, lost.mean <= limit, str(lost), lost.figures())


def _check_near_tuned(
    contract: str, reference: Reference, found: Sequence[Floats], limit: float, near_base: Check
) -> Check:
    """`check_near`, and nearer than the base: rounding that takes several times as much from the
    tune as from the base, and most of what training changed, has rounded the tune away."""
    near = check_near(contract, reference.merged, found, limit)
    lost, of_base = near.figures["mean_kld"], near_base.figures["mean_kld"]
    effect = divergence(reference.base, reference.merged).mean
    passed = near.passed and lost <= max(BASE_TIMES * of_base, EFFECT_SHARE * effect)
    detail = f"{near.detail}; the base's own file {of_base:.2e}, training's effect {effect:.2e}"
    figures = {**near.figures, "base_kld": of_base, "effect_of_training": effect}
    return Check(contract, passed, detail, figures)


def check_is_tuned(
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
