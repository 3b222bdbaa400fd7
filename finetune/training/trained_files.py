"""What a finished training depends on and left, by hash, and whether it is still so."""

from __future__ import annotations

from pathlib import Path

from tuneserve.base.tokenizer_files import TOKENIZER_FILES
from tuneserve.console import say
from tuneserve.errors import TuneserveError
from tuneserve.files import check_replaceable
from tuneserve.finetune.training.eval_losses import FILE as EVAL_LOSSES
from tuneserve.finetune.training.recorded import FILE as LOSSES
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.identity import Hashes, base_files, check_unchanged, hashes_of
from tuneserve.run import RunDirectory

# What a training leaves in its folders, and what earlier releases left there.
# Names as they are written: a longer one (adapter_model.safetensors.bak) is the user's.
ADAPTER_FILES = (
    "adapter_model.safetensors", "adapter_config.json", *TOKENIZER_FILES, "README.md",
    "processor_config.json", "preprocessor_config.json", "training_args.bin",
)  # fmt: skip
DATA_FILES = (
    *(f"{part}.jsonl" for part in ("train", "eval", "test", "replay", "general")),
    LOSSES,
    EVAL_LOSSES,
)


def check_replaceable_run(run: RunDirectory) -> None:
    """Raise UsageError if the run's folders hold what a training did not make: it would be deleted
    with what is replaced."""
    check_replaceable(run.adapter, ADAPTER_FILES, what="adapter")
    check_replaceable(run.data, DATA_FILES, what="training")


def run_hashes(run: RunDirectory) -> Hashes:
    """SHA-256 of the adapter's files (its tokenizer among them), of the splits and of recorded
    losses, by path in the run."""
    folders = (run.adapter, run.data)
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return hashes_of(paths, run.root)


def base_hashes(checkpoint: Path) -> Hashes:
    """SHA-256 of the base's weights and config.json."""
    return hashes_of(base_files(checkpoint), checkpoint)


def check_trained_files(run: RunDirectory, trained: TrainOutput, base: Path | None) -> None:
    """Raise TuneserveError if the adapter, a split or the `base` of the training is another now.

    Without `base` that is not looked at. A run of a release that recorded no hashes passes, with a
    note.
    """
    unknown = [] if trained.files else ["the adapter"]
    if base is not None and not trained.base.sha256:
        unknown.append("the base")
    if unknown:
        say(
            f"note: {run.name}: run.json has no hashes of {' and '.join(unknown)} (an older "
            "version trained it): a change since the training can't be seen"
        )
    check_unchanged(
        trained.files,
        run.root,
        what="this run",
        hint=f"Restore these files, or train again: tuneserve train --run {run.name} --force",
    )
    if base is not None:
        hint = (
            "The adapter fits the weights it was trained on. Restore them, or name a folder that "
            "has them: --merge-base DIRECTORY."
        )
        check_unchanged(trained.base.sha256, base, what="the base", hint=hint)
        others = [
            f"{path}: would be read now, and was not by the training"
            for path in base_files(base)
            if trained.base.sha256 and path.relative_to(base).as_posix() not in trained.base.sha256
        ]
        if others:
            raise TuneserveError(
                "the base is not as training left it", where=str(base), problems=others, hint=hint
            )
