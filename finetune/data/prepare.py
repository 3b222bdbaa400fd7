"""The data step: read the examples, split them, write the run's own copy."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.files import atomic_path, sha256_file, write_jsonl
from tuneserve.finetune.data.data_files import find_data, is_there
from tuneserve.finetune.data.hub import local_path
from tuneserve.finetune.data.ids import UniqueIds
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.prompt_variants import PromptVariants, read_prompt_variants
from tuneserve.finetune.data.reading import Read, check_named, read_examples
from tuneserve.finetune.data.split import SPLITS, Split, remove_near
from tuneserve.finetune.data.split_reasons import note_few_left, why_empty
from tuneserve.finetune.data.split_sizes import split_with_least
from tuneserve.records import Record
from tuneserve.run import RunDirectory
from tuneserve.settings import DataSettings

# Names that nothing but the split and the report use: the files' keys of these names may mean
# something else there.
_NOT_USED = ("source", "group")
# A larger weight of a file is taken for a typing error.
_LARGEST_WEIGHT = 1000


class GeneralRecord(Record):
    """General examples: their file, and how many may be replayed, are held out, were removed."""

    file: str
    replayable: int
    held_out: int
    removed: int


class DataRecord(Record):
    """What run.json remembers of the data: the files and the SHA-256 of all their content, counts,
    and the examples by group and split."""

    files: list[str]
    sha256: str
    shapes: dict[str, int]
    skipped: int
    duplicates_removed: int
    straddling_removed: int
    near_duplicates_removed: int
    groups: dict[str, dict[str, int]]
    general: GeneralRecord | None


@dataclass
class Prepared:
    """The split examples, and what was found in the files they came from.

    `replay_set` is split too: its train part may be replayed, its eval part is held out. `skipped`
    counts the records that can't be used, and `refused` says of those that were not even read where
    they stand and why.
    """

    split: Split
    shapes: Counter[str]
    skipped: int
    replay_set: Split | None = None
    variants: PromptVariants | None = None
    notes: Notes = field(default_factory=Notes)
    refused: list[str] = field(default_factory=list)

    def parts(self) -> dict[str, list[Example]]:
        """The examples by what they are for: train, eval and test, and with a replay set
        'replay' (what may be replayed) and 'general' (what is held out of it)."""
        found = {name: self.split.part(name) for name in SPLITS}
        if self.replay_set is not None:
            found |= {"replay": self.replay_set.train, "general": self.replay_set.eval}
        return found


def prepare_examples(settings: DataSettings) -> Prepared:
    """Read all files and split their examples. Raises UsageError for what can't be used, and if
    a split that is wanted comes out empty."""
    files = data_files(settings)
    reads = [read_file(path, weight, settings) for path, weight in files]
    check_fields(reads, settings)
    examples, notes = join_reads([path for path, _ in files], reads)
    prepared = split_all(examples, reads, notes, settings)
    check_none_is_empty(prepared.split, settings, examples)
    add_replay_set(prepared, settings)
    add_variants(prepared, settings)
    return prepared


def split_all(
    examples: Sequence[Example], reads: Sequence[Read], notes: Notes, settings: DataSettings
) -> Prepared:
    """The `examples` of all files, split, and what was found in reading them."""
    split = split_with_least(
        examples,
        eval_fraction=settings.eval_fraction,
        test_fraction=settings.test_fraction,
        near_duplicates=settings.near_duplicates,
        least=settings.least_held_out,
    )
    note_few_left(split)
    notes.update(split.notes)
    return Prepared(
        split,
        shapes=sum((read.shapes for read in reads), Counter()),
        skipped=sum(len(read.problems) for read in reads),
        notes=notes,
        refused=[problem for read in reads for problem in read.problems],
    )


def add_variants(prepared: Prepared, settings: DataSettings) -> None:
    """Read the prompt variants, if there are any. Raises UsageError if no example uses one."""
    if settings.wordings is not None:
        prepared.variants = read_prompt_variants(settings.wordings)
        prepared.variants.check_used(prepared.split.train)


def read_file(path: Path, weight: float, settings: DataSettings) -> Read:
    """The examples of one of `data_files`. Raises UsageError as `read_examples` does."""
    read = read_examples(
        local_path(path),
        system=settings.system,
        fields=_field_names(settings),
        skip_bad=settings.skip_bad,
    )
    read.examples = [replace(example, weight=weight) for example in read.examples]
    return read


def check_fields(reads: Sequence[Read], settings: DataSettings) -> None:
    """Raise UsageError for a column or key that `fields` names and that none of the files has."""
    keys = dict.fromkeys(key for read in reads for key in read.keys)
    if keys:
        check_named(_field_names(settings), list(keys), settings.file)


def join_reads(files: Sequence[Path], reads: Sequence[Read]) -> tuple[list[Example], Notes]:
    """The examples of all files, each under an id of its own, and the files' notes. Files may
    number theirs alike: an id that another example has already gets its file's name in front."""
    notes = Notes()
    for read in reads:
        notes.update(read.notes)
    ids = UniqueIds()
    joined = [
        ids.named(example, str(path))
        for path, read in zip(files, reads, strict=True)
        for example in read.examples
    ]
    return _with_sides(joined, notes), notes


def _with_sides(examples: list[Example], notes: Notes) -> list[Example]:
    """The examples with the sides that their files name, where there is more than one side: a
    single file is split, be it called 'train' or 'test'."""
    sides = {example.side for example in examples}
    if not sides & {"eval", "test"} or not sides & {None, "train"}:
        for example in examples:
            if example.side not in (None, "train"):
                text = f"split as all is, though named {example.side!r}"
                notes.add(text, example.where, odd=False)
        return [replace(example, side=None) for example in examples]
    for example in examples:
        if example.side:
            notes.add(
                f"stays on the side {example.side!r}, as its file or record says",
                example.where,
                odd=False,
            )
    return examples


def add_replay_set(prepared: Prepared, settings: DataSettings) -> None:
    """Read and split the replay set, if there is one. None of the task's held-out prompts is among
    those replayed. Raises UsageError if a part of it that is wanted comes out empty."""
    path = settings.general
    if path is None:
        return
    read = read_file(path, 1.0, settings)
    replay_set = split_with_least(
        [replace(example, side=None) for example in read.examples],
        eval_fraction=settings.general_fraction,
        test_fraction=0.0,
        near_duplicates=settings.near_duplicates,
        least=settings.least_held_out,
        general=True,
    )
    held = [*prepared.split.test, *prepared.split.eval]
    replay_set.near += remove_near(replay_set.train, held, settings.near_duplicates)
    empty = not replay_set.eval or (settings.replay > 0 and not replay_set.train)
    if empty:
        raise UsageError(
            f"{len(read.examples)} general examples leave none to "
            + ("replay" if replay_set.eval else "hold out"),
            where=str(path),
            hint="Add examples, or change [data] general_fraction.",
        )
    prepared.replay_set = replay_set
    prepared.skipped += len(read.problems)
    prepared.notes.update(read.notes)
    prepared.notes.update(replay_set.notes)
    prepared.refused += read.problems


def data_files(settings: DataSettings) -> list[tuple[Path, float]]:
    """The files, folders or patterns of examples with their weights. Raises UsageError for a
    weight that is none."""
    return [(settings.file, 1.0), *(_weighted(entry) for entry in settings.more)]


def _weighted(entry: str) -> tuple[Path, float]:
    path, separator, text = entry.rpartition("*")
    if not separator or Path(entry).expanduser().exists():
        return Path(entry), 1.0
    try:
        weight = float(text)
    except ValueError:
        # The last '*' is a pattern's, as in cases/*.jsonl.
        if set(text) & set("./") or is_there(Path(entry)):
            return Path(entry), 1.0
        weight = math.nan
    if not 0 < weight < _LARGEST_WEIGHT:
        raise UsageError(
            f"{entry!r}: no file matches it, and the weight after '*' must be a number above 0 and "
            f"below {_LARGEST_WEIGHT:,}",
            where="data.more",
        )
    return Path(path), weight


def data_inputs(settings: DataSettings) -> list[Path]:
    """Everything that the examples come from, as the settings name it."""
    further = (settings.general, settings.wordings)
    return [*(path for path, _ in data_files(settings)), *(p for p in further if p is not None)]


def data_hash(settings: DataSettings) -> str:
    """SHA-256 over the content of all files that the examples come from, in hex, and over the
    sides that their names say if these differ."""
    whole = hashlib.sha256()
    sides: list[str | None] = []
    for path in data_inputs(settings):
        if path == settings.wordings:
            whole.update(bytes.fromhex(sha256_file(path)))
            continue
        found = find_data(local_path(path))
        for file in (*found.described_by, *(file.path for file in found.files)):
            whole.update(bytes.fromhex(sha256_file(file)))
        sides += [file.side for file in found.files]
    if len(set(sides)) > 1:
        whole.update(repr(sides).encode())
    return whole.hexdigest()


def write_split(prepared: Prepared, run: RunDirectory) -> None:
    """Write the parts as runs/NAME/data/PART.jsonl, all or none."""
    with atomic_path(run.data) as directory:
        directory.mkdir()
        for name, examples in prepared.parts().items():
            rows = [example.to_row() for example in examples]
            write_jsonl(directory / f"{name}.jsonl", rows)


def describe(prepared: Prepared, settings: DataSettings) -> DataRecord:
    """What run.json remembers of the data."""
    split = prepared.split
    replay_set = prepared.replay_set
    return DataRecord(
        files=[str(path) for path, _ in data_files(settings)],
        sha256=data_hash(settings),
        shapes=dict(prepared.shapes),
        skipped=prepared.skipped,
        duplicates_removed=split.duplicates,
        straddling_removed=split.straddling,
        near_duplicates_removed=len(split.near),
        groups=split.groups(),
        general=None
        if replay_set is None
        else GeneralRecord(
            file=str(settings.general),
            replayable=len(replay_set.train),
            held_out=len(replay_set.eval),
            removed=replay_set.removed,
        ),
    )


def _field_names(settings: DataSettings) -> Mapping[str, str]:
    pairs = [entry.partition("=") for entry in settings.fields]
    for ours, _, theirs in pairs:
        if not ours or not (theirs or ours in _NOT_USED):
            raise UsageError(
                "write each as ours=theirs, e.g. output=answer; source= and group= leave that key "
                "unused",
                where="data.fields",
            )
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def check_none_is_empty(split: Split, settings: DataSettings, examples: Sequence[Example]) -> None:
    """Raise UsageError if a part of the split that is wanted is empty; `examples` are all."""
    # Without a smallest number the fractions are to be met; with one training goes on without eval.
    eval_fraction = 0.0 if settings.least_held_out else settings.eval_fraction
    wanted = {"train": 1.0, "eval": eval_fraction, "test": settings.test_fraction}
    empty = [name for name in SPLITS if wanted[name] > 0 and not split.part(name)]
    if empty:
        reason, hint = why_empty(examples, empty[0], settings.eval_fraction, settings.test_fraction)
        raise UsageError(
            f"{_count(examples)} leave none for '{empty[0]}': {reason}",
            where=str(settings.file),
            hint=hint,
        )


def _count(examples: Sequence[Example]) -> str:
    return f"{len(examples):,} example{'s' * (len(examples) != 1)}"
