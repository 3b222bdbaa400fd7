"""Verification without a table of the architecture: what transformers computes from the
checkpoints against what llama.cpp computes from the files.

transformers' models are loaded whole, in float32, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.chat.examples import read_split
from tuneserve.console import say
from tuneserve.convert.gguf.quantization import UNQUANTIZED
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.result import Check
from tuneserve.convert.verify.gain import (
    AnswerScores,
    Score,
    Scored,
    check_gain,
    choose_answers,
    file_scores,
    measure_gain,
)
from tuneserve.convert.verify.generation import check_ending
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.make_reference import LONGEST, answer_positions, choose_sequences
from tuneserve.convert.verify.tensors import check_changed_tensors
from tuneserve.convert.verify.verify import (
    MERGE_LIMIT,
    TOKEN_EXAMPLES,
    check_is_tuned,
    check_near,
    vocabulary_checks,
)
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings


@dataclass(frozen=True)
class FilePair:
    """Tuned and base: the GGUFs, the 16-bit GGUF of the tuned one, the checkpoints they were made
    of. `changed`: the checkpoint's names of what the adapter changes; `exact`: the merged
    checkpoint holds float32."""

    tuned: Path
    tuned_16: Path
    merged: Path
    base: Path
    base_checkpoint: Path
    adapter: Path
    changed: Sequence[str]
    exact: bool


def verify_files(
    pair: FilePair, run: RunDirectory, settings: ConvertSettings, *, threads: int
) -> tuple[list[Check], str]:
    """Run every check, also after one has failed; returns them, and a generated sample."""
    checks: list[Check] = []
    sample = ""
    trainer = TrainerTokenizer(pair.adapter, thoughts=run.thoughts)
    examples = read_split(run.held_out, limit=TOKEN_EXAMPLES)
    try:
        say("verify: token ids, chat template, tensors")
        checks += vocabulary_checks(pair.tuned, trainer, examples)
        checks.append(check_changed_tensors(pair.tuned, pair.base, _gguf_names(pair)))
        with LlamaModel(pair.tuned, vocab_only=True) as model:
            vocabulary = model.n_vocab
        chosen, sequences = choose_sequences(trainer, examples, vocabulary)
        encoded = [trainer.encode_example(example) for example in examples]
        answers = choose_answers(
            encoded, work=answer_positions(_parameters(pair.tuned), threads),
            vocabulary=vocabulary, thoughts=run.thoughts == "train",
        )  # fmt: skip
        say("verify: transformers' logits (base, adapter on base, merged)")
        base, before = _logits_and_scores(pair.base_checkpoint, sequences, answers)
        adapted, _ = _logits_and_scores(pair.base_checkpoint, sequences, [], adapter=pair.adapter)
        merged, after = _logits_and_scores(pair.merged, sequences, answers)
        # The merged weights are rounded to the base's type.
        limit = MERGE_LIMIT if pair.exact else settings.max_kld
        checks += [
            check_near("merged = adapter on base", adapted, merged, limit),
            check_is_tuned(base, adapted, merged),
        ]
        say("verify: the files' logits")
        made = file_logits(pair.tuned_16, sequences, threads=threads)
        checks.append(check_near("llama.cpp = transformers", merged, made, settings.max_kld))
        kind = settings.quantization
        limit = settings.max_kld if kind in UNQUANTIZED else settings.max_quantized_kld
        for contract, path, expected in (
            (f"{kind} ≈ merged", pair.tuned, merged),
            (f"base {kind} ≈ base", pair.base, base),
        ):
            found = file_logits(path, sequences, threads=threads)
            checks.append(check_near(contract, expected, found, limit))
        if answers:
            scores = file_scores(pair.tuned, answers, threads=threads, at_hand={})
            gain = measure_gain(AnswerScores(answers, before, after), scores, [])
            checks.append(check_gain(gain, [], settings.min_gain_kept))
        ending, sample = check_ending(pair.tuned, chosen, adapted, longest=LONGEST, threads=threads)
        checks.append(ending)
    except TuneserveError as error:
        checks.append(Check("the file loads", False, error.render().replace("\n", " ")))
    return checks, sample


def _logits_and_scores(
    checkpoint: Path,
    sequences: Sequence[Sequence[int]],
    answers: Sequence[Scored],
    *,
    adapter: Path | None = None,
) -> tuple[list[Floats], list[Score]]:
    """The logits [tokens, vocabulary] of each sequence, and the scores of the answers, by
    transformers' model in float32, with PEFT's `adapter` on it."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from tuneserve.convert.verify.reference import silence_libraries

    silence_libraries()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.eval()

    def logits(ids: Sequence[int]) -> Floats:
        found: Floats = (
            model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()
        )
        return found

    with torch.inference_mode():
        scores = [answer.score(logits(answer.ids)[answer.positions]) for answer in answers]
        return [logits(ids) for ids in sequences], scores


def _parameters(path: Path) -> int:
    file = TensorFile(path)
    return sum(prod(file.shape(name)) for name in file.tensors)


def _gguf_names(pair: FilePair) -> set[str]:
    """What the adapter changes, by the gguf package's table of names; all tensors, where the table
    doesn't know one of them."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    file = TensorFile(pair.tuned)
    every = set(file.tensors)
    number = next((n for n, name in MODEL_ARCH_NAMES.items() if name == file.architecture), None)
    if number is None:
        return every
    layers = int(file.metadata[f"{file.architecture}.block_count"])
    table = get_tensor_name_map(number, layers)
    names = {table.get_name(name, try_suffixes=(".weight", ".bias")) for name in pair.changed}
    return {str(name) for name in names} if names <= every else every
