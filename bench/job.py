"""What a benchmark will measure, checked and ready before anything slow starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tuneserve.bench import conditions
from tuneserve.bench.compare.answers import Asked, with_choices
from tuneserve.bench.compare.pairs import HELD_OUT
from tuneserve.bench.measure import keys
from tuneserve.bench.measure.answers import engine_settings
from tuneserve.bench.measure.journal import Journal, Key
from tuneserve.bench.measure.speed import speed_text
from tuneserve.bench.measure.sweep import SweepPoint, make_files, sweep_points
from tuneserve.bench.measure.sweep_files import STEPS, remove_sweep_files
from tuneserve.bench.measure.work import TOGETHER, AnswerRequest, Contender, Workload
from tuneserve.bench.tasks.examples import askable, read_held_out
from tuneserve.bench.tasks.general import general_task
from tuneserve.bench.tasks.lm_eval.tasks import read_tasks
from tuneserve.bench.tasks.scorers import list_choices
from tuneserve.bench.tasks.tasks import (
    GENERATED,
    Task,
    further_tasks,
    held_out_task,
    reference_of,
    require_different_files,
    require_different_ids,
)
from tuneserve.bench.text_tasks import text_work
from tuneserve.chat.examples import Example, read_split
from tuneserve.chat.prompt import EncodedExample
from tuneserve.convert.result import ConvertOutput, GainKept, verified_hash
from tuneserve.errors import UsageError
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.finetune.training.trained_files import check_trained_files
from tuneserve.run import RunDirectory, processor
from tuneserve.serve.offload import with_gpu_layers
from tuneserve.settings import BenchSettings, Recipe

REPLAY_SPLIT = "general"  # what training held out of its replay set


@dataclass(frozen=True)
class BenchmarkJob:
    """Everything that a benchmark of a run needs.

    `contenders`: 'base' and 'tuned', with `hashes` the SHA-256 of their GGUFs. `asked`: the task
    that the run was tuned for. `elsewhere`: further tasks, which show what the tune cost. `replay`:
    the held-out part of the replay set; the likelihood of their references is measured.
    `training`: the examples trained on, which held-out prompts are compared with to find
    contamination; None if the run keeps none. `gain`: what quantization keeps of the tune.
    `own_workload`: what `asked` needs; `workload`: that
    and what `elsewhere`, `replay` and the texts need.
    """

    run: RunDirectory
    recipe: Recipe
    quantization: str
    hashes: dict[str, str]
    contenders: dict[str, Contender]
    asked: Asked
    elsewhere: list[Asked]
    replay: list[EncodedExample]
    training: list[Example] | None
    workload: Workload
    own_workload: Workload
    conditions: dict[str, str]
    gain: GainKept | None = None

    @property
    def settings(self) -> BenchSettings:
        return self.recipe.bench

    @property
    def sweep_folder(self) -> Path:
        return self.run.root / "bench-ladder"

    def sweep(self) -> list[SweepPoint]:
        """What the sweep measures; the files need not be there yet."""
        paths = {step: self.sweep_folder / step.file_name for step in STEPS}
        return sweep_points(paths, self.contenders["tuned"].serve, self.settings)

    def make_sweep_files(self, journal: Journal) -> None:
        """Make the files of the sweep, unless the benchmark at hand made them."""
        if not journal.has("ladder files", "tuned"):
            remove_sweep_files(self.sweep_folder)
            journal.add("ladder files", "tuned", "", {})
        make_files(self.run, self.recipe.convert, self.sweep_folder)

    def model_conditions(self) -> dict[str, dict[str, Any]]:
        """What each model's answers, and their speeds TOGETHER, depend on beside the prompts, in
        words."""
        machine = processor()
        found = {
            name: keys.model_conditions(
                self.hashes["base" if contender.lora else name],
                self.hashes[name] if contender.lora else None,
                contender.serve,
                machine,
            )
            for name, contender in self.contenders.items()
        }
        serve = self.contenders["tuned"].serve
        return {**found, TOGETHER: keys.speed_conditions(found, self.settings, serve)}

    def keys(self) -> dict[Key, str]:
        """The key of every measurement that this benchmark may need, but for the sweep's."""
        found: dict[Key, str] = {}
        described = self.model_conditions()
        for name in self.contenders:
            found |= keys.model_keys(name, described[name], self.workload, self.settings)
        prompts = [example.prompt for example in self.asked.task.examples]
        serve = self.contenders["tuned"].serve
        found |= keys.speed_keys(described[TOGETHER], speed_text(self.workload.expected))
        found |= keys.served_keys(described["tuned"], prompts, serve, self.settings)
        if self.settings.noise_floor:
            found |= keys.noise_keys(described["base"], self.own_workload.requests, self.settings)
        if self.settings.endpoint:
            found |= keys.endpoint_keys(self.asked.encoded, self.settings)
        return found

    def fingerprint(self) -> str:
        """The key of what else is measured (the sweep): of all that the tuned model and its prompts
        are."""
        conditions = self.model_conditions()
        del conditions[TOGETHER]
        own = keys.model_keys("tuned", conditions["tuned"], self.own_workload, self.settings)
        converted = self.recipe.convert.model_dump(mode="json")
        return keys.digest(conditions, converted, sorted(own.values()))


def prepare(run: RunDirectory, recipe: Recipe, converted: ConvertOutput) -> BenchmarkJob:
    """Read, check and tokenize everything. Raises UsageError for what can't be measured,
    TuneserveError where base and tuned can't be compared."""
    settings = recipe.bench
    if (settings.price or settings.watts) and not settings.clients:
        raise UsageError(
            "the cost of answers is computed from the speed with clients, which is not measured",
            where="bench.price" if settings.price else "bench.watts",
            hint="Give numbers of clients too (--clients 1,8), or take it away.",
        )
    quantization = converted.base.quantization
    tuned, lora = converted.files(run)
    paths = {"base": run.base_gguf(quantization), "tuned": tuned}
    hashes = {
        "base": verified_hash(paths["base"], converted.base, run),
        "tuned": verified_hash(lora or tuned, converted.tuned, run),
    }
    if trained := run.finished("train", TrainOutput):
        # The base itself is not read here: what is measured are the GGUFs, whose hashes are known.
        check_trained_files(run, trained, base=None)
    require_different_files(settings.tasks)
    own_examples = read_held_out(run.split("test"), settings.limit)
    tasks = [held_out_task(HELD_OUT, own_examples, settings), *further_tasks(settings)]
    text_tasks = read_tasks(settings)
    if settings.general:
        tasks.append(general_task(settings.general, settings.max_tokens))
    replay = [
        replace(example, id=f"{REPLAY_SPLIT}/{example.id}")
        for example in _askable_of(run, REPLAY_SPLIT) or ()
    ]
    choices = _choices(tasks[0], settings)
    parts = [*(task.examples for task in tasks), replay, with_choices(tasks[0].examples, choices)]
    texts = [text for task in text_tasks for text in task.references]
    require_different_ids(chain(*parts, (text.example for text in texts)))
    types = conditions.require_same_types(paths["base"], paths["tuned"])
    encoded, template = conditions.encode_for_both(
        paths["base"],
        paths["tuned"],
        list(chain.from_iterable(parts)),
        recipe.data.thoughts,
        [text for task in text_tasks for text in task.prompts],
    )
    conditions.require_room(encoded, settings)
    rest = iter(encoded)
    *asked, replay_encoded, choices_encoded = [list(islice(rest, len(part))) for part in parts]
    works = [text_work(task, rest, settings) for task in text_tasks]
    own, *elsewhere = [
        Asked(
            task,
            part,
            choices if task is tasks[0] else (),
            settings.task == "likelihood_per_token",
            settings.think_tags,
        )
        for task, part in zip(tasks, asked, strict=True)
    ]
    own_workload = Workload(
        [] if choices else _requests(own, settings), [own.encoded], [choices_encoded], {}
    )
    further = [request for one in elsewhere for request in _requests(one, settings)]
    workload = replace(
        own_workload,
        requests=[*own_workload.requests, *further, *chain(*(work.requests for work in works))],
        expected=[*asked, replay_encoded, *(work.expected for work in works)],
        choices=[choices_encoded, *(work.choices for work in works)],
        texts=conditions.chunk_texts(paths["tuned"], settings.texts),
    )
    layers = with_gpu_layers(paths["tuned"], engine_settings(recipe.serve, settings)).gpu_layers
    serve = recipe.serve.model_copy(update={"gpu_layers": layers})
    return BenchmarkJob(
        run=run,
        recipe=recipe,
        quantization=quantization,
        hashes=hashes,
        contenders={
            name: Contender(name, path, serve, settings, lora if name == "tuned" else None)
            for name, path in paths.items()
        },
        asked=own,
        elsewhere=[*elsewhere, *chain(*(work.figures for work in works))],
        replay=replay_encoded,
        training=_askable_of(run, "train"),
        workload=workload,
        own_workload=own_workload,
        conditions=conditions.describe_conditions(quantization, types, template, serve, settings)
        | ({"Tuned": f"the base's GGUF with the adapter {lora.name} on it"} if lora else {}),
        gain=converted.gain,
    )


def _choices(own: Task, settings: BenchSettings) -> list[str]:
    """What there is to choose from; empty where answers are generated."""
    if settings.task in GENERATED:
        return []
    for name in ("noise_floor", "endpoint"):
        if getattr(settings, name):
            raise UsageError(
                f"task '{settings.task}' generates no answers, which this needs",
                where=f"bench.{name}",
                hint="Take it away, or choose a task that generates answers.",
            )
    return list_choices(settings, map(reference_of, own.examples))


def _askable_of(run: RunDirectory, split: str) -> list[Example] | None:
    """The split's examples that can be asked; None if the run has no such split."""
    path = run.split(split)
    return askable(read_split(path)) if path.is_file() else None


def _requests(asked: Asked, settings: BenchSettings) -> list[AnswerRequest]:
    """The task's prompts with the room that the context leaves for their answers."""
    return [
        AnswerRequest(
            item, min(asked.task.max_tokens, settings.ctx - len(item.prompt)), asked.task.name
        )
        for item in asked.encoded
    ]
