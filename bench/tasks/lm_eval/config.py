"""What a task file of lm-evaluation-harness may say, and what of it is read here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from pydantic_core import ErrorDetails

from tuneserve.bench.tasks.lm_eval.yaml_file import NO_CODE, Keys, TaskFile
from tuneserve.errors import UsageError
from tuneserve.recipe import nearest

Target = StrictInt | StrictStr | list[Any]
Choices = StrictStr | list[Any] | dict[str, Any]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
LONGEST_ANSWER = 1 << 20

_GROUP = "a group of tasks: name the files of its tasks one by one"
_REFUSED = {
    "group": _GROUP,
    "task_list": _GROUP,
    "aggregate_metric_list": _GROUP,
    "process_docs": NO_CODE,
    "process_results": NO_CODE,
    "custom_dataset": NO_CODE,
    "class": NO_CODE,
    "unsafe_code": NO_CODE,
    "doc_to_image": "pictures are not read",
    "doc_to_audio": "sound is not read",
    "use_prompt": "prompts of promptsource are not read: write doc_to_text and doc_to_target",
    "fewshot_indices": "lm-eval's own release 0.4.13 does not use it: name the examples in samples",
}
"""Keys that lm-eval knows and that are not read here, with what to do."""


_UNION = re.compile(r"\[|^(?:str|int|float|bool)$")
_KINDS = {
    "int_type": "a whole number", "string_type": "a text", "list_type": "a list",
    "dict_type": "an object",
}  # fmt: skip


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DatasetKwargs(_Section):
    """Where the data are: a file, several, or those of each split."""

    data_files: StrictStr | list[StrictStr] | dict[str, StrictStr | list[StrictStr]]
    trust_remote_code: Any = None


class FewshotConfig(_Section):
    """How examples in front of a prompt are chosen and written, where that is not as the prompt
    itself."""

    sampler: Literal["default", "first_n"] = "default"
    split: str | None = None
    samples: list[dict[str, Any]] | None = None
    doc_to_text: StrictInt | StrictStr | None = None
    doc_to_target: Target | None = None
    doc_to_choice: Choices | None = None
    gen_prefix: str | None = None
    target_delimiter: str | None = None
    fewshot_delimiter: str | None = None


class MetricConfig(_Section):
    """A metric, and for exact_match what it looks away from."""

    metric: str
    aggregation: str = "mean"
    higher_is_better: bool = True
    regexes_to_ignore: list[str] | None = None
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_numbers: bool = False


class FilterStep(_Section):
    """A step from an answer to what is scored; which settings a step has depends on `function`."""

    function: str
    regex_pattern: str | None = None
    group_select: StrictInt | None = None
    fallback: str | None = None
    ignore_case: bool | None = None
    ignore_punctuation: bool | None = None
    regexes_to_ignore: list[str] | None = None
    mapping_dict: dict[str, Any] | None = None
    default_value: Any = None
    k: StrictInt | None = None


class FilterConfig(_Section):
    """Steps one after another, under a name."""

    name: str
    filter: list[FilterStep] = Field(min_length=1)


class GenerationKwargs(_Section):
    """How answers are generated: always greedily here."""

    until: Stop | Annotated[list[Stop], Field(max_length=100)] | None = None
    max_gen_toks: Annotated[int, Field(ge=1, le=LONGEST_ANSWER)] = 256
    max_tokens: Annotated[int, Field(ge=1, le=LONGEST_ANSWER)] | None = None
    do_sample: Literal[False] = False
    temperature: Annotated[float, Field(ge=0.0, le=0.0)] = 0.0
    # Without effect on greedy answers.
    top_p: Any = None
    top_k: Any = None


class TaskConfig(_Section):
    """A task of one file, after what it includes."""

    task: str = Field(min_length=1)
    task_alias: Any = None
    tag: Any = None
    dataset_path: str
    dataset_name: Any = None
    dataset_kwargs: DatasetKwargs
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    output_type: Literal["multiple_choice", "generate_until"] = "generate_until"
    doc_to_text: StrictInt | StrictStr
    doc_to_target: Target
    doc_to_choice: Choices | None = None
    description: str = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    fewshot_config: FewshotConfig = FewshotConfig()
    gen_prefix: str | None = None
    num_fewshot: Annotated[int, Field(ge=0, le=1000)] = 0
    metric_list: list[MetricConfig] | None = Field(None, min_length=1)
    filter_list: list[FilterConfig] | None = Field(None, min_length=1)
    generation_kwargs: GenerationKwargs = GenerationKwargs()
    repeats: Literal[1] = 1
    # Without effect on prompts and scores.
    should_decontaminate: Any = None
    doc_to_decontamination_query: Any = None
    metadata: Any = None

    @property
    def shots_split(self) -> str | None:
        """The split that examples in front of a prompt are named to be of."""
        return self.fewshot_config.split or self.fewshot_split

    @property
    def pool_split(self) -> str | None:
        """The split that they are drawn from; None: the task file holds them itself."""
        if self.fewshot_config.samples and not self.shots_split:
            return None
        return self.shots_split or self.training_split or self.validation_split or self.test_split

    @property
    def asked_split(self) -> str:
        """The split whose prompts are asked."""
        return self.test_split or self.validation_split or ""


def read_config(file: TaskFile) -> TaskConfig:
    """The file's task. Raises UsageError naming file and line of everything that is wrong, of an
    unknown key with the nearest one that is known."""
    # An empty value is one that is not given.
    values = _without_none(file.values)
    for key in ("group", "task_list"):
        if key in values:
            raise UsageError(f"{key}: {_GROUP}", where=file.place(key))
    if not isinstance(values.get("task", ""), str):
        raise UsageError(f"task: expected a name; a list is {_GROUP}", where=file.place("task"))
    try:
        config = TaskConfig.model_validate(values)
    except ValidationError as error:
        raise _refusal(_describe_all(error.errors(), file), file) from None
    problems = list(_problems(config, file))
    if problems:
        raise _refusal(problems, file)
    return config


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


def _refusal(found: list[tuple[str, str]], file: TaskFile) -> UsageError:
    """One error for all that is wrong: (place, message) of each."""
    if len(found) == 1:
        ((where, message),) = found
        return UsageError(message, where=where)
    return UsageError(
        f"{len(found)} keys are wrong",
        where=str(file.path),
        problems=[f"{where}: {message}" for where, message in found],
    )


def _problems(config: TaskConfig, file: TaskFile) -> list[tuple[str, str]]:
    """What no single key says."""
    found = []
    if config.dataset_path != "json":
        found.append(
            (
                file.place("dataset_path"),
                f"dataset_path: nothing is downloaded: save '{config.dataset_path}' as JSONL, then "
                "'dataset_path: json' and the file in dataset_kwargs: {data_files: …}",
            )
        )
    if not config.asked_split:
        found.append((str(file.path), "test_split is missing (or validation_split)"))
    if config.output_type == "multiple_choice" and config.doc_to_choice is None:
        found.append((file.place("output_type"), "multiple_choice needs doc_to_choice"))
    if config.output_type == "multiple_choice" and "generation_kwargs" in file.values:
        found.append(
            (
                file.place("generation_kwargs"),
                "generation_kwargs: multiple_choice generates nothing",
            )
        )
    spares_asked = config.shots_split == config.test_split
    if config.num_fewshot and config.pool_split == config.asked_split and not spares_asked:
        found.append(
            (
                file.place("num_fewshot"),
                "num_fewshot: a prompt's own answer could be among its examples; take them from "
                "elsewhere (fewshot_split, or samples in fewshot_config), or name the split as "
                "test_split and as fewshot_split",
            )
        )
    return found


def _describe_all(details: Iterable[ErrorDetails], file: TaskFile) -> list[tuple[str, str]]:
    """A place, and what is wrong there, for each key."""
    by_key: dict[Keys, list[ErrorDetails]] = {}
    details = list(details)
    unknown = [str(each["loc"][-1]) for each in details if each["type"] == "extra_forbidden"]
    for detail in details:
        if detail["type"] == "missing" and get_close_matches(str(detail["loc"][-1]), unknown):
            continue  # it is misspelled, which is said
        # What pydantic calls the members of a union stands between the keys.
        place = detail["loc"]
        keys = tuple(part for part in place if not _UNION.search(str(part)))
        # An unknown key may be called like that itself.
        keys = place if detail["type"] == "extra_forbidden" or not keys else keys
        by_key.setdefault(keys, []).append(detail)
    return [_describe(keys, found, file) for keys, found in by_key.items()]


def _describe(keys: Keys, found: list[ErrorDetails], file: TaskFile) -> tuple[str, str]:
    detail, *others = found
    place, name, last = file.place(*keys), ".".join(map(str, keys)), str(keys[-1])
    given = detail["input"]
    shown = "" if isinstance(given, dict | list) else f" (got {given!r})"
    if detail["type"] == "missing":
        return file.place(*keys[:-1]), f"{name} is missing"
    if detail["type"] == "extra_forbidden":
        reason = _REFUSED.get(last)
        hint = nearest(last, list(_section(keys[:-1]).model_fields))
        return place, f"{name}: {reason}" if reason else f"unknown key '{name}' ({hint})"
    if last == "output_type" and given in ("loglikelihood", "loglikelihood_rolling"):
        return place, (
            f"output_type '{given}' is not measured here: perplexity of a text is `bench --texts`, "
            "answers to choose from are multiple_choice"
        )
    if last in ("do_sample", "temperature"):
        return place, f"{name}: answers are generated greedily here{shown}"
    if last == "repeats":
        return place, f"repeats: a greedy answer is generated once{shown}"
    if others:
        kinds = dict.fromkeys(_KINDS.get(one["type"], one["msg"]) for one in found)
        return place, f"{name}: expected {' or '.join(kinds)}{shown}"
    message = detail["msg"]
    return place, f"{name}: {message[0].lower()}{message[1:]}{shown}"


def _section(keys: Keys) -> type[_Section]:
    """The model of what stands under the keys."""
    sections: dict[str, type[_Section]] = {
        "dataset_kwargs": DatasetKwargs, "fewshot_config": FewshotConfig,
        "metric_list": MetricConfig, "filter_list": FilterConfig, "filter": FilterStep,
        "generation_kwargs": GenerationKwargs,
    }  # fmt: skip
    names = [key for key in keys if key in sections]
    return sections[names[-1]] if names else TaskConfig
