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
from tuneserve.convert.slabs import one_blas_thread
from tuneserve.convert.verify.checks import Check
from tuneserve.convert.verify.generation import check_ending
from tuneserve.convert.verify.logits import file_logits, make_context, open_model
from tuneserve.convert.verify.tensors import (
    check_changed_tensors,
    check_merged_checkpoint,
    check_written,
)
from tuneserve.convert.verify.vocabulary import (
    TrainerTokenizer,
    check_special_tokens,
    check_template,
    check_token_ids,
)
from tuneserve.divergence import divergence
from tuneserve.errors import TuneserveError
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
    setting of the training."""

    tuned: Path
    model: GGUFModel
    adapter: Path
    held_out: Path
    base: Path | None = None
    base_model: GGUFModel | None = None
    importance: Mapping[str, Floats] | None = None
    checkpoint: Path | None = None
    f16: Path | None = None
    thoughts: str = "train"


@dataclass
class VerificationResult:
    """The checks made, in order, and a generated sample."""

    checks: list[Check] = field(default_factory=list)
    sample: str = ""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def verify(candidate: Candidate, settings: ConvertSettings) -> VerificationResult:
    """Run every check, also after one has failed."""
    result = VerificationResult()
    threads = settings.threads or physical_cores()
    trainer = TrainerTokenizer(candidate.adapter, thoughts=candidate.thoughts)
    examples = read_split(candidate.held_out, limit=TOKEN_EXAMPLES)
    try:
        with one_blas_thread():
            say("verify: token ids, chat template, tensors")
            result.checks += vocabulary_checks(candidate.tuned, trainer, examples)
            result.checks += _tensor_checks(candidate, settings, threads)
            _check_logits(candidate, settings, trainer, examples, result, threads)
    except TuneserveError as error:
        result.checks.append(Check("the file loads", False, error.render().replace("\n", " ")))
    return result


def vocabulary_checks(
    path: Path, trainer: TrainerTokenizer, examples: Sequence[Example]
) -> list[Check]:
    """What needs no weights: token ids, special tokens, chat template."""
    with LlamaModel(path, vocab_only=True) as vocabulary:
        return [
            check_token_ids(trainer, vocabulary, examples),
            check_special_tokens(trainer, vocabulary),
            check_template(trainer, vocabulary, examples),
        ]


def _tensor_checks(candidate: Candidate, settings: ConvertSettings, threads: int) -> list[Check]:
    quantization, importance = settings.quantization, candidate.importance

    def written(path: Path, model: GGUFModel, kind: str, contract: str) -> Check:
        weights = None if kind in UNQUANTIZED else importance
        choices = model.choices(kind, has_imatrix=weights is not None)
        return check_written(
            TensorFile(path), model, choices, weights, threads=threads, contract=contract
        )

    checks = [written(candidate.tuned, candidate.model, quantization, "written as merged")]
    if candidate.f16 is not None:
        checks.append(written(candidate.f16, candidate.model, "F16", "F16 written as merged"))
    if candidate.base is not None and candidate.base_model is not None:
        checks += [
            written(candidate.base, candidate.base_model, quantization, "base written as it is"),
            check_changed_tensors(candidate.tuned, candidate.base, candidate.model.changed),
        ]
    if candidate.checkpoint is not None:
        checks.append(check_merged_checkpoint(candidate.checkpoint, candidate.model.checkpoint))
    return checks


def _check_logits(
    candidate: Candidate,
    settings: ConvertSettings,
    trainer: TrainerTokenizer,
    examples: Sequence[Example],
    result: VerificationResult,
    threads: int,
) -> None:
    # PyTorch and transformers take seconds to import.
    from tuneserve.convert.verify.probe import check_probe
    from tuneserve.convert.verify.reference import reference_logits

    quantization = settings.quantization
    vocabulary = candidate.model.sources["token_embd.weight"].shape[0]
    chosen, sequences = choose_sequences(trainer, examples, positions(vocabulary))
    say("verify: the trainer's logits (base, adapter on base, merged)")
    reference = reference_logits(candidate.model, candidate.adapter, sequences, threads=threads)
    merge = divergence(reference.adapted, reference.merged)
    result.checks += [
        Check("merged = adapter on base", merge.mean <= MERGE_LIMIT, str(merge), merge.figures()),
        _check_is_tuned(reference.base, reference.adapted, reference.merged),
    ]
    say("verify: the files' logits")
    result.checks.append(
        check_probe(
            candidate.tuned, candidate.model, sequences, folder=candidate.tuned.parent,
            limit=settings.max_kld, threads=threads,
        )
    )  # fmt: skip
    limit = settings.max_kld if quantization in UNQUANTIZED else settings.max_quantized_kld
    longest = max(len(ids) for ids in sequences)
    with open_model(candidate.tuned) as model:
        with make_context(model, longest, threads=threads) as context:
            tuned = [context.logits(ids) for ids in sequences]
        result.checks.append(
            _check_near(f"{quantization} ≈ merged", reference.merged, tuned, limit)
        )
        ending, result.sample = check_ending(
            model, chosen, reference.adapted, longest=LONGEST, threads=threads
        )
        del tuned
    if candidate.base is not None:
        base = file_logits(candidate.base, sequences, threads=threads)
        result.checks.append(
            _check_near(f"base {quantization} ≈ base", reference.base, base, limit)
        )
    result.checks.append(ending)


def positions(vocabulary: int) -> int:
    """How many tokens' logits are compared: what LOGIT_BYTES hold, within POSITIONS."""
    least, most = POSITIONS
    return min(most, max(least, LOGIT_BYTES // (5 * 4 * vocabulary)))


def choose_sequences(
    trainer: TrainerTokenizer, examples: Sequence[Example], room: int
) -> tuple[list[EncodedExample], list[list[int]]]:
    """Held-out examples, and their prompts with their answers, but for the end token, as ids:
    the shortest ones, within `room` tokens after padding to the longest."""
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


def _check_near(
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
