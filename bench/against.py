"""Further models beside base and tuned: those of other runs, and GGUF files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneserve.bench import conditions
from tuneserve.bench.compare.answers import Asked, read_responses, with_choices
from tuneserve.bench.compare.contamination import WORDS, overlapping
from tuneserve.bench.compare.pairs import Response
from tuneserve.bench.job import BenchmarkJob
from tuneserve.bench.measure import keys
from tuneserve.bench.measure.answers import engine_settings
from tuneserve.bench.measure.journal import (
    FILE,
    Journal,
    Key,
    conditions_in,
    rows_with,
    what_changed,
)
from tuneserve.bench.measure.measure import measure_answers
from tuneserve.bench.measure.values import ANSWER, CHOICE
from tuneserve.bench.measure.work import ENDPOINT, NOISE_FLOOR, AnswerRequest, Contender, Workload
from tuneserve.bench.tasks.examples import askable, encode_examples
from tuneserve.chat.examples import read_split
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import say
from tuneserve.convert.result import ConvertOutput
from tuneserve.errors import UsageError
from tuneserve.files import sha256_file
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory, processor
from tuneserve.serve.offload import with_gpu_layers


@dataclass(frozen=True)
class Rival:
    """A further model: its `name` in the report, its GGUF (with the LoRA GGUF on it), the SHA-256
    of the file that was tuned and of the GGUF, and the run that it comes from."""

    name: str
    path: Path
    lora: Path | None
    sha256: str
    model_sha256: str
    run: RunDirectory | None = None


def find_rivals(entries: Sequence[str], run: RunDirectory, converted: ConvertOutput) -> list[Rival]:
    """The models that `bench.against` names beside those of `run`: a GGUF file, or the tuned model
    of another run. Raises UsageError for what is neither, and for what is the run's own."""
    rivals: list[Rival] = []
    taken = {"base", "tuned", NOISE_FLOOR, ENDPOINT}
    for entry in entries:
        path = Path(entry)
        if path.suffix == ".gguf" and not path.is_file():
            raise UsageError("no such file", where=f"bench.against: {entry}")
        rival = _of_file(path) if path.is_file() else _of_run(entry)
        if rival.run is None and rival.name in {other.name for other in rivals}:
            # Every conversion names its files alike.
            rival = replace(rival, name=f"{path.resolve().parent.name}/{rival.name}")
        if rival.name in taken:
            raise UsageError(
                f"a contender is called '{rival.name}' already",
                where=f"bench.against: {entry}",
                hint="Give the file another name (a link will do), or name it once.",
            )
        _refuse_own(entry, rival, run, converted)
        same = [
            name
            for name, made in (("base", converted.base), ("tuned", converted.tuned))
            if made.sha256 == rival.sha256
        ]
        same += [other.name for other in rivals if other.sha256 == rival.sha256]
        if same:
            say(f"{rival.name} is the same file as {same[0]}: more pairs to test, no new answer")
        taken.add(rival.name)
        rivals.append(rival)
    return rivals


def _refuse_own(entry: str, rival: Rival, run: RunDirectory, converted: ConvertOutput) -> None:
    """Raise UsageError for what is measured anyway: this very run, or one of its two GGUFs."""
    tuned, lora = converted.files(run)
    own = {"tuned": lora or tuned, "base": run.base_gguf(converted.base.quantization)}
    where = (rival.lora or rival.path).resolve()
    for name, path in own.items():
        is_file = rival.run is None and where == path.resolve()
        if is_file or (rival.run is not None and rival.run.root.resolve() == run.root.resolve()):
            raise UsageError(
                f"is this run's own {name} model, which is measured anyway",
                where=f"bench.against: {entry}",
                hint="Take it away. What chance alone changes between two answers of one model is "
                "shown by --noise-floor.",
            )


def _of_file(path: Path) -> Rival:
    digest = sha256_file(path)
    return Rival(path.stem, path, None, digest, digest)


def _of_run(name: str) -> Rival:
    run = RunDirectory.named(name).require()
    converted = run.require_stage("convert", ConvertOutput)
    path, lora = converted.files(run)
    made = lora or path
    if not made.is_file() or sha256_file(made) != converted.tuned.sha256:
        raise UsageError(
            "is not the file that the conversion made" if made.is_file() else "no such GGUF",
            where=str(made),
            hint=f"Make it again: tuneserve convert --run {name} --force",
        )
    base = converted.base.sha256 if lora else converted.tuned.sha256
    return Rival(name, path, lora, converted.tuned.sha256, base, run)


@dataclass(frozen=True)
class RivalJob:
    """What a rival is asked: the prompts as its own token ids, with their keys, and the conditions
    of its answers in words. `contender` has its name in the journal: another file of the same name
    is another model."""

    rival: Rival
    contender: Contender
    asked: Asked
    workload: Workload
    keys: dict[Key, str]
    conditions: dict[str, Any]


def prepare_rivals(rivals: Sequence[Rival], job: BenchmarkJob) -> list[RivalJob]:
    """Read and tokenize everything. Raises UsageError for prompts that don't fit, before anything
    is measured."""
    return [_prepared(rival, job) for rival in rivals]


def _prepared(rival: Rival, job: BenchmarkJob) -> RivalJob:
    settings = job.settings
    asked, choices = _encoded(rival, job)
    layers = with_gpu_layers(rival.path, engine_settings(job.recipe.serve, settings)).gpu_layers
    serve = job.recipe.serve.model_copy(update={"gpu_layers": layers})
    name = f"{rival.name} {rival.sha256[:12]}"
    requests = [
        AnswerRequest(
            item, min(asked.task.max_tokens, settings.ctx - len(item.prompt)), asked.task.name
        )
        for item in asked.encoded
    ]
    workload = Workload([] if choices else requests, [], [choices], {})
    described = keys.model_conditions(
        rival.model_sha256, rival.sha256 if rival.lora else None, serve, processor()
    )
    found = keys.model_keys(name, described, workload, settings)
    return RivalJob(
        rival=rival,
        contender=Contender(name, rival.path, serve, settings, rival.lora),
        asked=asked,
        workload=workload,
        keys={key: each for key, each in found.items() if key[0] in (ANSWER, CHOICE)},
        conditions=described,
    )


def use_known_answers(
    prepared: Sequence[RivalJob], job: BenchmarkJob, journal: Journal, *, anew: bool
) -> None:
    """Put into the journal what the benchmarks of the rivals' own runs have measured of what is to
    be measured here (unless all is measured `anew`), and note for the report what each rival is."""
    for each in prepared:
        rival = each.rival
        said = [f"{(rival.lora or rival.path).name} (sha256 {rival.sha256[:12]}…)"]
        said += [
            f"the same file as {name}" for name, one in job.hashes.items() if one == rival.sha256
        ]
        if rival.run is not None:
            said += ["" if anew else _known(each, rival.run, journal), *_trained_on(rival.run, job)]
        job.conditions[rival.name] = "; ".join(filter(None, said))


def _known(each: RivalJob, run: RunDirectory, journal: Journal) -> str:
    """Take the answers of the run's own benchmark; returns in words what came of it."""
    path, name = run.root / FILE, each.rival.name
    missing = {key: place for place, key in each.keys.items() if not journal.has(*place)}
    if not missing or not path.is_file():
        return ""
    rows = rows_with(path, missing)
    for key, row in rows.items():
        journal.add(*missing[key], row.value, made=row.made)
    if rows:
        day = max(row.made for row in rows.values())[:10]
        found = (
            f"{len(rows):,} of {len(missing):,} answers are taken from its own benchmark of {day}"
        )
    else:
        why = what_changed(conditions_in(path, "tuned"), each.conditions)
        found = f"its own benchmark's answers can't be used and it is asked now: {why}"
    say(f"{name}: {found}")
    return found


def _trained_on(run: RunDirectory, job: BenchmarkJob) -> list[str]:
    """What a reader has to know where another run was trained on other examples: it may have seen
    the prompts that it is asked here."""
    theirs, ours = run.split("train"), job.run.split("train")
    if not theirs.is_file() or (ours.is_file() and sha256_file(theirs) == sha256_file(ours)):
        return []
    prompts = job.asked.task.examples
    seen = overlapping(prompts, askable(read_split(theirs)))
    said = (
        f"trained on other examples than this run: {len(seen):,} of the {len(prompts):,} prompts "
        f"share {WORDS} words in a row with one of them"
    )
    say(f"{run.name}: {said}")
    return [said]


def ask_rivals(prepared: Sequence[RivalJob], journal: Journal) -> dict[str, list[Response]]:
    """Every rival's answers to the run's own held-out prompts, by its name."""
    for each in prepared:
        measure_answers(each.contender, each.workload, journal)
    return {
        each.rival.name: read_responses(journal, each.contender.name, each.asked)
        for each in prepared
    }


def _encoded(rival: Rival, job: BenchmarkJob) -> tuple[Asked, list[EncodedExample]]:
    """The prompts, and every prompt with every choice, as the rival's own token ids."""
    examples = job.asked.task.examples
    chosen = with_choices(examples, job.asked.choices)
    with LlamaModel(rival.path, vocab_only=True) as model:
        encoded = encode_examples(model, [*examples, *chosen], thoughts=job.recipe.data.thoughts)
    conditions.require_room(encoded, job.settings)
    return replace(job.asked, encoded=encoded[: len(examples)]), encoded[len(examples) :]
