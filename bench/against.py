"""Further models beside base and tuned: those of other runs, and GGUF files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneserve.bench import conditions
from tuneserve.bench.compare.answers import Asked, read_responses, with_choices
from tuneserve.bench.compare.pairs import Response
from tuneserve.bench.compare.report_file import read_answers, read_report
from tuneserve.bench.job import BenchmarkJob
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.measure import (
    ENDPOINT,
    NOISE_FLOOR,
    AnswerRequest,
    Contender,
    Workload,
    engine_settings,
    measure_answers,
)
from tuneserve.bench.tasks.examples import encode_examples
from tuneserve.bench.tasks.tasks import reference_of
from tuneserve.chat.prompt import EncodedExample
from tuneserve.console import say
from tuneserve.convert.result import ConvertOutput
from tuneserve.errors import UsageError
from tuneserve.files import sha256_file
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory, versions
from tuneserve.serve.offload import with_gpu_layers

# What of [bench] and [serve] says how answers came about; scores are made anew.
BENCH_CONDITIONS = ("limit", "max_tokens", "ctx", "parallel", "think_tags", "task", "choices")
SERVE_CONDITIONS = ("cache_type_k", "cache_type_v", "flash_attention", "batch", "micro_batch")


@dataclass(frozen=True)
class Rival:
    """A further model: its `name` in the report, its GGUF (with the LoRA GGUF on it), the SHA-256
    of the file that was tuned, and the run that it comes from."""

    name: str
    path: Path
    lora: Path | None
    sha256: str
    run: RunDirectory | None = None


def find_rivals(entries: Sequence[str]) -> list[Rival]:
    """The models that `bench.against` names: a GGUF file, or the tuned model of a run. Raises
    UsageError for what is neither."""
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
        same = [other.name for other in rivals if other.sha256 == rival.sha256]
        if same:
            say(f"{rival.name} is the same file as {same[0]}: more pairs to test, no new answer")
        taken.add(rival.name)
        rivals.append(rival)
    return rivals


def _of_file(path: Path) -> Rival:
    return Rival(path.stem, path, None, sha256_file(path))


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
    return Rival(name, path, lora, converted.tuned.sha256, run)


@dataclass(frozen=True)
class RivalJob:
    """What there is to do for a rival: nothing where its answers are `known`, else the prompts as
    its own token ids, and every prompt with every choice."""

    rival: Rival
    known: list[Response] | None
    asked: Asked
    choices: list[EncodedExample]


def prepare_rivals(rivals: Sequence[Rival], job: BenchmarkJob) -> list[RivalJob]:
    """Answers that a rival's own benchmark left are taken, if it asked the same under the same
    conditions. Raises UsageError for prompts that don't fit, before anything is measured."""
    prepared = []
    for rival in rivals:
        known = _known_answers(rival, job)
        if known is None:
            prepared.append(RivalJob(rival, None, *_encoded(rival, job)))
        else:
            say(f"{rival.name}: {len(known):,} answers are taken from its own benchmark")
            prepared.append(RivalJob(rival, known, job.asked, []))
    return prepared


def ask_rivals(
    rivals: Sequence[RivalJob], job: BenchmarkJob, journal: Journal
) -> dict[str, list[Response]]:
    """Every rival's answers to the run's own held-out prompts, by its name."""
    return {
        each.rival.name: _ask(each, job, journal) if each.known is None else each.known
        for each in rivals
    }


def _ask(todo: RivalJob, job: BenchmarkJob, journal: Journal) -> list[Response]:
    rival, settings = todo.rival, job.settings
    layers = with_gpu_layers(rival.path, engine_settings(job.recipe.serve, settings)).gpu_layers
    serve = job.recipe.serve.model_copy(update={"gpu_layers": layers})
    # Another file of that name is another model.
    name = f"{rival.name} {rival.sha256[:12]}"
    contender = Contender(name, rival.path, serve, settings, rival.lora)
    requests = [
        AnswerRequest(item, min(todo.asked.task.max_tokens, settings.ctx - len(item.prompt)))
        for item in todo.asked.encoded
    ]
    workload = Workload([] if todo.choices else requests, [], todo.choices, {})
    measure_answers(contender, workload, journal)
    return read_responses(journal, name, todo.asked)


def _encoded(rival: Rival, job: BenchmarkJob) -> tuple[Asked, list[EncodedExample]]:
    """The prompts, and every prompt with every choice, as the rival's own token ids."""
    examples = job.asked.task.examples
    chosen = with_choices(examples, job.asked.choices)
    with LlamaModel(rival.path, vocab_only=True) as model:
        encoded = encode_examples(model, [*examples, *chosen], thoughts=job.recipe.data.thoughts)
    conditions.require_room(encoded, job.settings)
    return replace(job.asked, encoded=encoded[: len(examples)]), encoded[len(examples) :]


def _known_answers(rival: Rival, job: BenchmarkJob) -> list[Response] | None:
    """What the benchmark of the rival's run left, scored anew; None where it asked otherwise."""
    if rival.run is None or not (rival.run.bench / "report.json").is_file():
        return None
    report = read_report(rival.run)
    theirs = report.provenance.settings
    ours = job.recipe.model_dump(mode="json", include={"bench", "serve"})
    same = all(
        theirs[table].get(name) == ours[table].get(name)
        for table, names in (("bench", BENCH_CONDITIONS), ("serve", SERVE_CONDITIONS))
        for name in names
    )
    engine = "llama-cpp-python"
    if not (
        same
        and report.tuned.sha256 == rival.sha256
        and report.provenance.test_sha256 == sha256_file(job.run.split("test"))
        and report.provenance.versions.get(engine) == versions().get(engine)
    ):
        return None
    rows = {row["id"]: row for row in read_answers(rival.run)}
    scored = zip(job.asked.task.examples, job.asked.task.scorers, strict=True)
    found = []
    for example, scorer in scored:
        row = rows.get(example.id)
        if row is None:
            return None
        kept = {k: v for k, v in row["tuned"].items() if not k.startswith("reference_")}
        mark = scorer.mark(kept["text"], reference_of(example))
        found.append(Response(**{**kept, **vars(mark)}))
    return found
