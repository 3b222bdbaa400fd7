"""What of a run is handed over, each file proved by the hash in run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneserve.console import say
from tuneserve.convert.result import AdapterResult, ConvertResult
from tuneserve.errors import UsageError
from tuneserve.files import sha256_file
from tuneserve.records import parse
from tuneserve.run import RunDirectory

TEXTS = ("README.md", "Modelfile")
SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class HandedFile:
    """A file and its name for the receiver. `sha256` is run.json's, None for one that is
    written beside the GGUFs and may be another (the card, the Modelfile, the importance matrix);
    `edited`: it is not as the conversion wrote it; `content`: what is sent in its place."""

    path: Path
    name: str
    sha256: str | None = None
    edited: bool = False
    content: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.content is None else len(self.content)


def sums_of(files: Sequence[HandedFile]) -> str:
    """What `sha256sum --check` reads, of those of the files that have a hash: beside the receiver's
    files there is none that was not handed over."""
    return "".join(f"{file.sha256}  {file.name}\n" for file in files if file.sha256)


def handed_files(run: RunDirectory, *, with_base: bool = False) -> list[HandedFile]:
    """The tuned GGUF with its card, the adapter, the adapter as GGUF and the importance matrix as
    far as they were made; `with_base`, or where the adapter stays beside it, the base's GGUF too.
    The first is the tuned one. Card and Modelfile are the user's to edit.

    Raises UsageError if the run is not converted, or a file is missing or not the one in run.json.
    """
    result = run.require_stage("convert", ConvertResult)
    made = [result.tuned]
    if with_base or result.as_adapter:  # an adapter is nothing without its base
        made.append(result.base)
    files = [HandedFile(run.gguf / Path(one.path).name, Path(one.path).name, one.sha256)
             for one in made]  # fmt: skip
    files += [
        HandedFile(run.adapter / name, f"adapter/{name}", digest)
        for name, digest in result.inputs.adapter.items()
    ]
    lora = None if result.as_adapter else run.read().lora
    if lora and run.lora_gguf.is_file():
        adapter = parse(AdapterResult, lora, where=f"{run.record_path}, 'lora'", hint="")
        files.append(HandedFile(run.lora_gguf, run.lora_gguf.name, adapter.sha256))
    beside = [*TEXTS, f"{run.name}.imatrix.gguf"]
    files += [HandedFile(run.gguf / name, name) for name in beside if (run.gguf / name).is_file()]
    _check(run, files)
    # An earlier release has recorded no hashes of them.
    written = result.handover_sha256
    return [
        replace(file, edited=sha256_file(file.path) != written.get(file.name))
        if written and file.name in TEXTS
        else file
        for file in files
    ]


def tell_edited(files: Sequence[HandedFile]) -> None:
    """Say which files are not as the conversion wrote them."""
    if edited := [file.name for file in files if file.edited]:
        say(f"note: not as convert wrote it: {', '.join(edited)}")


def _check(run: RunDirectory, files: list[HandedFile]) -> None:
    problems = {file.path: problem for file in files if (problem := _problem(file))}
    if problems:
        # A changed adapter is one that a conversion would refuse.
        of_training = any(path.is_relative_to(run.adapter) for path in problems)
        again = "train" if of_training else "convert"
        raise UsageError(
            "this run is not what its run.json describes",
            where=str(run.record_path),
            problems=list(problems.values()),
            hint=f"Restore it, or make it again: tuneserve {again} --run {run.name} --force",
        )


def _problem(file: HandedFile) -> str:
    """Why the file can't be handed over; '' if it can."""
    if not file.path.is_file():
        return f"{file.path} is missing"
    if file.sha256 is None:
        # A link would send a file that is none of the run's.
        return f"{file.path} is a link" if file.path.is_symlink() else ""
    changed = sha256_file(file.path) != file.sha256
    return f"{file.path} is not the file that was verified" if changed else ""
