"""The architectures that this package has no module for: llama.cpp's own converter and quantizer.

The merged checkpoint is written, the converter that the user names makes a 16-bit GGUF of it, and
llama.cpp quantizes that. What needs no table of ours is verified as always: the tokenizer, the
logits of the 16-bit file against transformers', the quantized files against both.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tuneserve.base import check_checkpoint
from tuneserve.chat.examples import read_split
from tuneserve.child import run_child
from tuneserve.console import human_bytes, say
from tuneserve.convert.gguf.quantization import MIXTURES, UNQUANTIZED
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.make import Clock, described, make_files
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.applied import HEAD
from tuneserve.convert.merge.checkpoint import MergedCheckpoint, merged_file_config
from tuneserve.convert.merge.writer import (
    TOKENIZER_FILES,
    check_writable,
    checkpoint_bytes,
    write_checkpoint,
)
from tuneserve.convert.plan import Plan, plan_of
from tuneserve.convert.quantize import measure_importance
from tuneserve.convert.resources import LIBRARIES, check_disk, uses_imatrix
from tuneserve.convert.result import ConvertResult, MergedInto
from tuneserve.convert.route import check_quantization, uses_converter
from tuneserve.convert.stage import convert
from tuneserve.convert.verify import VerificationError
from tuneserve.convert.verify.plain import FilePair, verify_files
from tuneserve.convert.verify.verify import TOKEN_EXAMPLES
from tuneserve.errors import TuneserveError
from tuneserve.files import atomic_path, temporary_folder, write_json
from tuneserve.gguf.system_prompt import write_with_system_prompt
from tuneserve.llama import ggml
from tuneserve.llama.quantizer import quantize_gguf
from tuneserve.memory import main_memory
from tuneserve.run import RunDirectory
from tuneserve.safetensors import INDEX, SINGLE, weight_files
from tuneserve.settings import ConvertSettings

_HINT = (
    "Try it by hand on the base. A newer llama.cpp may know this model, or it may need a package "
    "(requirements/ beside the converter)."
)
# Nothing is fetched, whatever config.json names, and output can be read whatever the locale.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
# Types of more bits than the plain one in a mixture.
_MIXED = 1.15
_TIED = "tie_word_embeddings"


def convert_run(
    run: RunDirectory, settings: ConvertSettings, *, force: bool = False, skip_done: bool = False
) -> ConvertResult:
    """`convert`, by this package or by the converter that the settings name, as the base needs."""
    plan = plan_of(run, settings)
    check_checkpoint(plan.base_checkpoint)
    architecture = MergedCheckpoint(plan.base_checkpoint).architecture
    theirs = uses_converter(architecture, settings, where=str(plan.base_checkpoint))
    make = _make if theirs else make_files
    return convert(run, settings, force=force, skip_done=skip_done, make=make)


def run_converter(
    converter: Path, checkpoint: Path, target: Path, *, outtype: str = "f16", name: str = "",
    vocabulary_only: bool = False,
) -> None:  # fmt: skip
    """Run llama.cpp's converter on a checkpoint directory with this Python. Raises TuneserveError
    with its last lines if it fails, or if it wrote no such file."""
    command = [sys.executable, str(converter.expanduser().absolute()), str(checkpoint)]
    command += ["--outfile", str(target), "--outtype", outtype]
    command += ["--model-name", name] if name else []
    command += ["--vocab-only"] if vocabulary_only else []
    run_child(command, what=f"convert.converter = {str(converter)!r}", env=_ENVIRONMENT, hint=_HINT)
    if not target.is_file():
        raise TuneserveError(
            "the converter wrote no such file: llama.cpp's convert_hf_to_gguf.py is "
            "expected (docs/own-model.md)",
            where=f"convert.converter = {str(converter)!r}",
            hint=_HINT,
        )  # fmt: skip


def stage_checkpoint(base: Path, tokenizer: Path, folder: Path) -> Path:
    """A checkpoint directory of links: the base's weights and configuration, and the `tokenizer`
    of another directory."""
    folder.mkdir(parents=True)
    left_out = {path.name for pattern in TOKENIZER_FILES for path in base.glob(pattern)}
    # An older index beside model.safetensors, weights in another form: what training did not read.
    read = weight_files(base)
    left_out |= {path.name for path in base.glob("*.safetensors") if path not in read}
    if read == [base / SINGLE]:
        left_out.add(INDEX)
    for path in base.iterdir():
        if path.is_file() and path.name not in left_out:
            (folder / path.name).symlink_to(path.resolve())
    _add_tokenizer(base, tokenizer, folder)
    return folder


def needed_by_converter(checkpoint: MergedCheckpoint, settings: ConvertSettings) -> int:
    """Bytes of disk: the merged checkpoint, two 16-bit GGUFs, two quantized ones. Raises
    TuneserveError if there isn't memory enough for transformers' model in float32, with which the
    files are compared."""
    parameters = sum(prod(checkpoint.shape(name)) for name in checkpoint.names)
    memory, free = 4 * parameters + LIBRARIES, main_memory().available
    if free < memory:
        raise TuneserveError(
            f"{human_bytes(memory)} of memory are needed to verify what the converter makes, "
            f"{human_bytes(free)} are free",
            where="memory",
            hint="The model is loaded in float32: convert on a machine with more memory.",
        )
    quantized = ggml.row_bytes(MIXTURES[settings.quantization].plain, 256) / 256 * _MIXED
    return round(checkpoint_bytes(checkpoint) + 2 * parameters * (2 + quantized))


@dataclass(frozen=True)
class _Work:
    """The plan, and the folder of what is only needed meanwhile."""

    plan: Plan
    folder: Path
    clock: Clock

    @property
    def outtype(self) -> str:
        return "bf16" if self.plan.settings.quantization == "BF16" else "f16"

    def converted(self, checkpoint: Path, target: Path, name: str, system: str = "") -> None:
        converter = self.plan.settings.converter
        assert converter is not None
        say(f"convert: {converter} on {name}")
        made = self.folder / "plain.gguf" if system else target
        run_converter(converter, checkpoint, made, outtype=self.outtype, name=name)
        if system:
            write_with_system_prompt(made, target, system)
            made.unlink()

    def quantized(self, source: Path, target: Path, imatrix: Path | None) -> None:
        kind, threads = self.plan.settings.quantization, self.plan.threads
        if kind in UNQUANTIZED:
            shutil.copyfile(source, target)
            return
        say(f"convert: {kind} by llama.cpp's quantizer")
        quantize_gguf(source, target, MIXTURES[kind].file_type, threads=threads, imatrix=imatrix)


def _make(plan: Plan, withdraw: Callable[[], None]) -> ConvertResult:
    """Write and verify the files; `withdraw` is called before they replace older ones."""
    settings, run, clock = plan.settings, plan.run, Clock()
    check_quantization(settings)
    plan.check_as_trained()
    plan.tell_other_base()
    read_split(run.held_out, limit=TOKEN_EXAMPLES)
    merged = MergedCheckpoint(plan.base_checkpoint, Adapter(run.adapter))
    base = merged.base()
    check_writable(merged)
    check_disk(run.gguf, needed_by_converter(merged, settings))
    with ExitStack() as files:
        folder = files.enter_context(temporary_folder(run.gguf / "upstream"))
        work = _Work(plan, folder, clock)
        made_tuned = files.enter_context(atomic_path(plan.tuned))
        made_base = files.enter_context(atomic_path(plan.base))
        keeps = settings.keep_f16 and settings.quantization != "F16"
        tuned_16 = files.enter_context(atomic_path(plan.f16)) if keeps else folder / "tuned.gguf"
        checkpoint = folder / "tuned"
        if settings.merged_checkpoint:
            checkpoint = files.enter_context(atomic_path(plan.merged))
        _write(merged, run.adapter, checkpoint, plan.threads)
        base_checkpoint = folder / "base"
        # Dequantized, as it was trained on, or with new tokens.
        if "quantization_config" in base.config or base.resized:
            _write(base, run.adapter, base_checkpoint, plan.threads)
        else:
            stage_checkpoint(plan.base_checkpoint, run.adapter, base_checkpoint)
        clock.lap("merge")
        work.converted(checkpoint, tuned_16, run.name, run.system_prompt)
        work.converted(base_checkpoint, folder / "base.gguf", plan.base_name)
        clock.lap("converter")
        imatrix = None
        if uses_imatrix(settings):
            imatrix = files.enter_context(atomic_path(plan.imatrix))
            tokens = settings.imatrix_tokens
            matrix = measure_importance(tuned_16, run, tokens, threads=plan.threads)
            matrix.write(imatrix)
        work.quantized(tuned_16, made_tuned, imatrix)
        work.quantized(folder / "base.gguf", made_base, imatrix)
        clock.lap("quantize")
        pair = FilePair(
            made_tuned, tuned_16, checkpoint, made_base, base_checkpoint, run.adapter,
            [name for name in merged.names if merged.is_changed(name)],
            exact=merged.kind == "F32",
        )  # fmt: skip
        checks, sample = verify_files(pair, run, settings, threads=plan.threads)
        clock.lap("verify")
        if not all(check.passed for check in checks):
            raise VerificationError(checks, str(plan.tuned))
        file = TensorFile(made_tuned)
        result = ConvertResult(
            tuned=described(made_tuned, plan.tuned, settings.quantization),
            base=described(made_base, plan.base, settings.quantization),
            tensor_types=dict(Counter(map(file.type_name, file.tensors))),
            fallbacks={},
            verification=checks,
            sample=sample,
            seconds=clock.laps,
            settings=settings.model_dump(mode="json"),
            inputs=plan.inputs(),
            merged_into=MergedInto(path=str(plan.base_checkpoint), weights=merged.kind),
            merged_checkpoint=str(plan.merged) if settings.merged_checkpoint else None,
        )
        withdraw()
        return result


def _write(merged: MergedCheckpoint, adapter: Path, folder: Path, threads: int) -> None:
    """The merged checkpoint with the trainer's tokenizer."""
    write_checkpoint(folder, merged, adapter, threads=threads)
    # The architecture says whether embedding and output are one where config.json doesn't.
    tied = False if merged.tied and HEAD in merged.names else merged.config.get(_TIED)
    config = {key: value for key, value in merged_file_config(merged).items() if key != _TIED}
    write_json(folder / "config.json", config if tied is None else {**config, _TIED: tied})
    _add_tokenizer(merged.directory, adapter, folder)


def _add_tokenizer(base: Path, tokenizer: Path, folder: Path) -> None:
    """The trainer's tokenizer, and the base's sentencepiece model, which training does not save."""
    for pattern in TOKENIZER_FILES:
        for path in tokenizer.glob(pattern):
            if not (folder / path.name).exists():
                shutil.copy(path, folder / path.name)
    model = base / "tokenizer.model"
    if model.is_file() and not (folder / model.name).exists():
        shutil.copy(model, folder / model.name)
