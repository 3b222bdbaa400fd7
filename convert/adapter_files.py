"""The adapter as a GGUF beside its quantized base: written and verified.

Where the base was imported from a GGUF, the base's file takes that file's own tensors where they
have the type that is wanted: they are the base that was tuned, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from tuneserve.base.resolve import source_gguf
from tuneserve.chat.examples import read_split
from tuneserve.console import say
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import CopiedTensor
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.plan import Plan
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.result import Check
from tuneserve.convert.slabs import one_blas_thread
from tuneserve.convert.verify.gain import check_gain
from tuneserve.convert.verify.generation import check_ending
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.make_reference import LONGEST, make_reference
from tuneserve.convert.verify.measured import Measured
from tuneserve.convert.verify.verify import TOKEN_EXAMPLES, check_near, vocabulary_checks
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.divergence import divergence
from tuneserve.finetune.training.result import TrainOutput


def write_own_base(
    plan: Plan, base: GGUFModel, path: Path, *, matrix: ImportanceMatrix | None = None
) -> None:
    """Write the quantized base."""
    quantization = plan.settings.quantization
    trained = plan.run.require_stage("train", TrainOutput).base
    source = source_gguf(trained.spec, plan.base_checkpoint)
    copied = {}
    if source is not None:
        file = TensorFile(source)
        copied = {
            choice.name: CopiedTensor(file, choice.name)
            for choice in base.choices(quantization, has_imatrix=matrix is not None)
            if choice.name in file.tensors
            and file.type_name(choice.name) == choice.type
            and file.shape(choice.name) == base.sources[choice.name].shape
        }
        say(f"convert: {len(copied)} of {len(base.sources)} tensors as in {source}")
    write_quantized(
        base, path, quantization, threads=plan.threads,
        matrix=matrix, matrix_file=plan.imatrix.name, copied=copied,
    )  # fmt: skip


def check_adapter(
    plan: Plan, tuned: GGUFModel, lora: Path, base: Path, measured: Measured
) -> tuple[list[Check], str]:
    """Base and LoRA GGUF do what training did: the checks, and a generated sample. `measured` gets
    what they keep of the gain, and may bring the reference along."""
    threads = plan.threads
    trainer = TrainerTokenizer(plan.run.adapter, thoughts=plan.run.thoughts)
    examples = read_split(plan.run.held_out, limit=TOKEN_EXAMPLES)
    with one_blas_thread():
        say("verify: token ids, chat template")
        checks = vocabulary_checks(base, trainer, examples)
        reference = measured.reference or make_reference(
            tuned, plan.run.adapter, trainer, examples, threads=threads,
            thoughts=plan.run.thoughts, recorded=plan.recorded,
        )  # fmt: skip
        measured.reference = reference
        say("verify: the logits of base and LoRA GGUF")
        plain = file_logits(base, reference.sequences, threads=threads)
        adapted = file_logits(base, reference.sequences, threads=threads, lora=lora)
        gain = measured.score(
            base, adapted, base=base, limit=plan.settings.min_gain_kept, threads=threads, lora=lora
        )
    near = check_near(
        "base + LoRA ≈ adapter on base", reference.adapted, adapted, plan.settings.max_quantized_kld
    )
    lost, without = near.figures["mean_kld"], divergence(reference.adapted, plain).mean
    acts = Check(
        "the LoRA acts", lost < without,
        f"KL divergence from the trained model {lost:.2e} with it, {without:.2e} without",
        {"kld_with": lost, "kld_without": without},
    )  # fmt: skip
    checks += reference.as_trained
    kept = check_gain(gain, [], plan.settings.min_gain_kept)
    ending, sample = check_ending(
        base, reference.chosen, reference.adapted, longest=LONGEST, threads=threads, lora=lora
    )
    return [*checks, near, acts, kept, ending], sample
