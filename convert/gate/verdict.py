"""All checks of a conversion, in the order in which a fault is best told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.gate.checks import Check
from convert.gate.divergence import divergence
from convert.gate.generation import check_ending
from convert.gate.reference import ReferenceModel
from convert.gate.template import check_template
from convert.gate.tensors import check_changed_tensors
from convert.gate.texts import Conversation, held_out
from convert.gate.tokens import check_special_tokens, check_token_ids
from convert.gate.trainer import TrainerTokenizer
from convert.merge import MergedCheckpoint
from tuneserve.console import say
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaContext, LlamaModel
from tuneserve.settings import ConvertSettings

Floats = npt.NDArray[np.float32]
TOKEN_CONVERSATIONS = 400
LOGIT_CONVERSATIONS = 8
LONGEST = 256
POSITIONS = 512
SMALL_BYTES = 64 * 1024 * 1024
# Two float32 computations of the same weights: only the order of the sums differs.
MERGE_LIMIT = 1e-6


@dataclass(frozen=True)
class Candidate:
    """What is to be verified: the files, and what they were made from."""

    tuned: Path
    tuned_f16: Path
    base: Path
    base_checkpoint: Path
    adapter: Path
    merged: MergedCheckpoint
    held_out: Path


@dataclass
class Verdict:
    """The checks made, in order, and a generated sample."""

    checks: list[Check] = field(default_factory=list)
    sample: str = ""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def verify(candidate: Candidate, settings: ConvertSettings) -> Verdict:
    """Run every check; a failed one does not stop those that can still say something."""
    verdict = Verdict()
    trainer = TrainerTokenizer(candidate.adapter)
    conversations = held_out(candidate.held_out, TOKEN_CONVERSATIONS)
    try:
        say("verify: token ids, chat template")
        verdict.checks += vocabulary_checks(candidate.tuned, trainer, conversations)
        verdict.checks.append(
            check_changed_tensors(candidate.tuned, candidate.base, candidate.merged)
        )
        _check_logits(candidate, settings, trainer, conversations, verdict)
    except TuneserveError as error:
        verdict.checks.append(Check("the file loads", False, error.render().replace("\n", " ")))
    return verdict


def vocabulary_checks(
    path: Path, trainer: TrainerTokenizer, conversations: Sequence[Conversation]
) -> list[Check]:
    """What needs no weights: token ids, special tokens, chat template."""
    with LlamaModel(path, vocab_only=True) as vocabulary:
        return [
            check_token_ids(trainer, vocabulary, conversations),
            check_special_tokens(trainer, vocabulary),
            check_template(trainer, vocabulary, conversations),
        ]


def _check_logits(
    candidate: Candidate,
    settings: ConvertSettings,
    trainer: TrainerTokenizer,
    conversations: Sequence[Conversation],
    verdict: Verdict,
) -> None:
    chosen, sequences = choose_sequences(trainer, conversations)
    say("verify: the trainer's logits (adapter on base, base, merged)")
    reference = ReferenceModel(candidate.base_checkpoint, candidate.adapter)
    adapted = reference.adapted(sequences)
    plain = reference.base(sequences)
    merged = reference.merged(sequences, candidate.merged)
    reference.close()
    merge = divergence(adapted, merged)
    verdict.checks.append(
        Check("merged = adapter on base", merge.mean <= MERGE_LIMIT, str(merge), merge.figures())
    )
    say("verify: the GGUFs' logits")
    f16 = file_logits(candidate.tuned_f16, sequences)
    exact = divergence(merged, f16)
    verdict.checks.append(
        Check("F16 = merged", exact.mean <= settings.max_kld, str(exact), exact.figures())
    )
    with LlamaModel(candidate.tuned) as model, _context(model) as context:
        tuned = [context.logits(ids) for ids in sequences]
        lost = divergence(f16, tuned)
        verdict.checks.append(
            Check(f"{settings.quantization} ≈ F16", lost.mean <= settings.max_quantized_kld,
                  str(lost), lost.figures())
        )  # fmt: skip
        ending, verdict.sample = check_ending(trainer, context, chosen, adapted)
    verdict.checks += [
        _check_is_tuned(plain, adapted, f16),
        _check_base(plain, file_logits(candidate.base, sequences), settings),
        ending,
    ]


def choose_sequences(
    trainer: TrainerTokenizer, conversations: Sequence[Conversation]
) -> tuple[list[Conversation], list[list[int]]]:
    """Held-out prompts with their answers as ids: short ones first, within POSITIONS in all."""
    encoded = [
        (
            conversation,
            trainer.encode_prompt(trainer.render(list(conversation.prompt)))
            + trainer.encode(conversation.answer),
        )
        for conversation in conversations[: 4 * LOGIT_CONVERSATIONS]
    ]
    encoded.sort(key=lambda pair: len(pair[1]))
    chosen: list[Conversation] = []
    sequences: list[list[int]] = []
    used = 0
    for conversation, ids in encoded[:LOGIT_CONVERSATIONS]:
        if sequences and used + min(len(ids), LONGEST) > POSITIONS:
            break
        chosen.append(conversation)
        sequences.append(ids[-LONGEST:])
        used += len(sequences[-1])
    if not sequences:
        raise TuneserveError("no held-out example to verify with")
    return chosen, sequences


def file_logits(path: Path, sequences: Sequence[Sequence[int]]) -> list[Floats]:
    """Logits of each sequence from a GGUF, with an exact (float32) KV cache."""
    with LlamaModel(path) as model, _context(model) as context:
        return [context.logits(ids) for ids in sequences]


def _context(model: LlamaModel) -> LlamaContext:
    # The layers of a small model are done sooner than threads are woken.
    threads = 1 if model.path.stat().st_size < SMALL_BYTES else 0
    return LlamaContext(
        model, n_ctx=4 * LONGEST, n_batch=LONGEST, cache_type_k="f32", cache_type_v="f32",
        flash_attention=False, threads=threads,
    )  # fmt: skip


def _check_is_tuned(
    plain: Sequence[Floats], adapted: Sequence[Floats], f16: Sequence[Floats]
) -> Check:
    """Is the file nearer to what was trained than to the base? Told by the F16 file: what
    quantization loses can be more than a short training changes."""
    to_base, to_trained = divergence(plain, f16), divergence(adapted, f16)
    effect = divergence(plain, adapted)
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


def _check_base(
    plain: Sequence[Floats], base: Sequence[Floats], settings: ConvertSettings
) -> Check:
    lost = divergence(plain, base)
    return Check(
        f"base {settings.quantization} ≈ base", lost.mean <= settings.max_quantized_kld,
        str(lost), lost.figures(),
    )  # fmt: skip
