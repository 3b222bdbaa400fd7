"""From a task file of lm-evaluation-harness to prompts, choices and scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneserve.bench.tasks.examples import evenly
from tuneserve.bench.tasks.lm_eval.config import (
    FilterConfig,
    FilterStep,
    MetricConfig,
    TaskConfig,
    read_config,
)
from tuneserve.bench.tasks.lm_eval.documents import files_of, read_split
from tuneserve.bench.tasks.lm_eval.filters import check_patterns, exact_match, make_filter
from tuneserve.bench.tasks.lm_eval.prompts import Asked, read_prompts
from tuneserve.bench.tasks.lm_eval.yaml_file import TaskFile, read_task_file
from tuneserve.bench.tasks.scorers.bounded_patterns import BoundedPatterns
from tuneserve.bench.tasks.scorers.python_file import try_out
from tuneserve.bench.tasks.tasks import Choices, Task, is_task_file, split_entry
from tuneserve.bench.tasks.texts import TextPrompt, TextTask
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.recipe import nearest
from tuneserve.settings import BenchSettings

_LENGTHS: dict[str, Callable[[str], int]] = {
    "acc": lambda _: 1,
    "acc_norm": len,
    "acc_bytes": lambda choice: len(choice.encode("utf-8", "surrogatepass")),
}
"""What a choice's log-likelihood is divided by, for each metric of choices."""
_METRICS = {"multiple_choice": list(_LENGTHS), "generate_until": ["exact_match"]}
_BY_DEFAULT = {"multiple_choice": ["acc", "acc_norm"], "generate_until": ["exact_match"]}
NO_FILTER = FilterConfig(name="none", filter=[FilterStep(function="take_first")])


def read_tasks(settings: BenchSettings) -> list[TextTask]:
    """The task files that the settings name, each with all its figures, or as 'task.yaml=acc_norm'
    with those of one metric or one filter. Raises UsageError with file and line for what can't be
    read, asked or scored."""
    entries = filter(is_task_file, settings.tasks)
    return [_Loaded.of(entry).task(settings) for entry in entries]


def figure_names(entry: str) -> list[str]:
    """What the figures of a task file are called in a report."""
    loaded = _Loaded.of(entry)
    return [loaded.name_of(figure) for figure in loaded.figures]


def input_files(entry: str) -> set[Path]:
    """Every file that an entry's figures depend on."""
    loaded = _Loaded.of(entry)
    data = files_of(loaded.config, loaded.file)
    return {*loaded.file.files, *(path for paths in data.values() for path in paths)}


@dataclass(frozen=True)
class _Figure:
    """A metric of what a filter leaves of the answers, and where the filter stands in its list."""

    metric: MetricConfig
    filter: FilterConfig
    number: int


@dataclass(frozen=True)
class _Loaded:
    """An entry's task file, and the figures of it that are wanted."""

    entry: str
    file: TaskFile
    config: TaskConfig
    figures: list[_Figure]

    @classmethod
    def of(cls, entry: str) -> _Loaded:
        path, wanted = split_entry(entry)
        file = read_task_file(path)
        config = read_config(file)
        return cls(entry, file, config, _figures(config, file, wanted, entry))

    def name_of(self, figure: _Figure) -> str:
        several = len(self.config.filter_list or ()) > 1
        named = f" {figure.filter.name}" if several else ""
        return f"{self.config.task} {figure.metric.metric}{named}"

    def task(self, settings: BenchSettings) -> TextTask:
        documents = read_split(self.config, self.file, self.config.asked_split)
        picked = evenly(range(len(documents)), settings.limit or len(documents))
        asked = read_prompts(
            self.config, self.file, documents, picked, chat=settings.task_chat_template
        )
        examples = [self._example(one, number) for one, number in zip(asked, picked, strict=True)]
        generated = self.config.output_type == "generate_until"
        kwargs = self.config.generation_kwargs
        until = self.config.fewshot_delimiter if kwargs.until is None else kwargs.until
        max_tokens = kwargs.max_tokens or kwargs.max_gen_toks
        return TextTask(
            name=self.entry,
            figures=[
                self._figure(figure, asked, examples, max_tokens, settings)
                for figure in self.figures
            ],
            references=[
                TextPrompt(example, *one.pairs[one.shown])
                for one, example in zip(asked, examples, strict=True)
            ],
            asked=[
                TextPrompt(example, one.pairs[0][0], None)
                for one, example in zip(asked, examples, strict=True)
                if generated
            ],
            choices=[
                TextPrompt(example, context, continuation)
                for one, example in zip(asked, examples, strict=True)
                for context, continuation in one.pairs
                if not generated
            ],
            max_tokens=max_tokens if generated else 0,
            until=(until,) if isinstance(until, str) else tuple(until),
        )

    def _example(self, one: Asked, number: int) -> Example:
        context = one.pairs[one.shown][0]
        asked = ({"role": "user", "content": context},) if isinstance(context, str) else context
        answer = {"role": "assistant", "content": one.references[0]}
        name = f"{self.file.path}/{number}"
        return Example(name, (*asked, answer), where=one.document.where)

    def _figure(
        self,
        figure: _Figure,
        asked: Sequence[Asked],
        examples: list[Example],
        max_tokens: int,
        settings: BenchSettings,
    ) -> Task:
        metric = figure.metric.metric
        shots = f", {self.config.num_fewshot} examples in front" if self.config.num_fewshot else ""
        form = "through the chat template" if settings.task_chat_template else "as plain text"
        filtered = f" of filter {figure.filter.name}" if self.config.filter_list else ""
        about = f"{self.file.path}, lm-eval’s {metric}{filtered}{shots}, {form}"
        name = self.name_of(figure)
        if self.config.output_type == "multiple_choice":
            length = _LENGTHS[metric]
            choices = [
                Choices(one.choices, one.right, [length(choice) for choice in one.choices])
                for one in asked
            ]
            return Task(name, about, examples, [], max_tokens, choices)
        patterns = BoundedPatterns(settings, str(self.file.path))
        apply = make_filter(figure.filter, self._place_of(figure), patterns)
        scorers = [
            exact_match(figure.metric, apply, one.document, one.references, patterns)
            for one in asked
        ]
        # What is wrong with patterns or documents shall come out before anything is measured.
        for scorer in scorers:
            scorer.mark("", "")
        try_out(scorers[0], [one.references[0] for one in asked])
        return Task(name, about, examples, scorers, max_tokens, verbatim=True)

    def _place_of(self, figure: _Figure) -> Callable[..., str]:
        return lambda *keys: self.file.place("filter_list", figure.number, *keys)


def _figures(config: TaskConfig, file: TaskFile, wanted: str, entry: str) -> list[_Figure]:
    """The metrics of every filter, or those of the `wanted` metric or filter."""
    kind = config.output_type
    metrics = config.metric_list or [MetricConfig(metric=name) for name in _BY_DEFAULT[kind]]
    filters = config.filter_list or [NO_FILTER]
    known = [*(metric.metric for metric in metrics), *(one.name for one in filters)]
    if wanted and wanted not in known:
        raise UsageError(
            f"this task has no metric or filter '{wanted}' ({nearest(wanted, known)})",
            where=f"bench.tasks: {entry}",
        )
    figures = [
        (number, metric, filter_number, one)
        for number, metric in enumerate(metrics)
        for filter_number, one in enumerate(filters)
        if wanted in ("", metric.metric, one.name)
    ]
    for number, metric, _, _ in figures:
        _check_metric(metric, file.place("metric_list", number), _METRICS[kind])
    for filter_number, one in {number: one for _, _, number, one in figures}.items():
        if kind == "multiple_choice" and one.filter != NO_FILTER.filter:
            raise UsageError(
                "filter_list: multiple_choice generates nothing to be filtered",
                where=file.place("filter_list", filter_number),
            )
    return [_Figure(metric, one, number) for _, metric, number, one in figures]


def _check_metric(metric: MetricConfig, at: str, known: Iterable[str]) -> None:
    names = list(known)
    if metric.metric not in names:
        raise UsageError(
            f"metric '{metric.metric}' is not measured here ({nearest(metric.metric, names)})",
            where=at,
            hint="Choose another of the task's metrics alone: --tasks FILE=METRIC",
        )
    if metric.aggregation != "mean" or not metric.higher_is_better:
        raise UsageError(f"{metric.metric} is a mean of scores, and higher is better", where=at)
    options = sorted(metric.model_fields_set - {"metric", "aggregation", "higher_is_better"})
    if options and metric.metric != "exact_match":
        raise UsageError(f"{metric.metric} has no {', '.join(options)}", where=at)
    check_patterns(metric, at)
