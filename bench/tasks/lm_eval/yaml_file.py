"""A task file of lm-evaluation-harness as it stands on disk: YAML, with the place of every key.

The file may come from anywhere: no tag that makes objects is read, and none of its code is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.files import HALF_CHARACTER, is_encodable, read_text

MOST_CHARACTERS = 1 << 20
MOST_VALUES = 200_000
"""With what aliases stand for: a few lines of them can stand for billions."""
DEEPEST = 50
CODE_TAG = "!function"
MERGE_TAG = "tag:yaml.org,2002:merge"
NO_CODE = (
    "Code of a task is not run. Write what it makes of the data to a JSONL file, and name its "
    "columns here."
)
_IN_FULL = r"YAML writes a character beyond U+FFFF in one: \U0001F600, or as it is."
_NOT_INHERITED = "task_list"
Keys = tuple[str | int, ...]
"""Keys and places in lists down to a value: ('metric_list', 0, 'metric')."""


@dataclass(frozen=True)
class TaskFile:
    """A task file with what it includes: its `values`, the place ('file:line') of each by the keys
    that lead to it, and all `files` that were read."""

    path: Path
    values: dict[str, Any]
    places: Mapping[Keys, str]
    files: tuple[Path, ...]

    def place(self, *keys: str | int) -> str:
        """Where a value stands; of one that is not there, where what would hold it does."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.places:
                return self.places[keys[:length]]
        return str(self.path)


def read_task_file(path: Path) -> TaskFile:
    """Read a task file. What it says itself counts before what it includes, and of what it includes
    the last. Raises UsageError with file and line."""
    return _read(path, where=f"bench.tasks: {path}", above=())


def _read(path: Path, *, where: str, above: tuple[Path, ...]) -> TaskFile:
    if path.resolve() in above:
        raise UsageError(f"includes itself: {path}", where=where)
    if not path.is_file():
        raise UsageError("no such file" if not above else f"no such file: {path}", where=where)
    values, places = _parsed(path)
    files: tuple[Path, ...] = (path,)
    included = values.pop("include", None) or []
    merged: dict[str, Any] = {}
    merged_places: dict[Keys, str] = {}
    for name in included if isinstance(included, list) else [included]:
        at = places["include",]
        if not isinstance(name, str):
            raise UsageError("include: expected the name of a file", where=at)
        other = _read(path.parent / name, where=at, above=(*above, path.resolve()))
        files += other.files
        _take(merged, merged_places, other.values, other.places, without=_NOT_INHERITED)
    _take(merged, merged_places, values, places)
    return TaskFile(path, merged, merged_places, files)


def _take(
    values: dict[str, Any],
    places: dict[Keys, str],
    more: Mapping[str, Any],
    more_places: Mapping[Keys, str],
    *,
    without: str = "",
) -> None:
    """Put the keys of `more` in the place of those of that name."""
    for keys in [keys for keys in places if keys[0] in more]:
        del places[keys]
    values.update({key: value for key, value in more.items() if key != without})
    places.update({keys: at for keys, at in more_places.items() if keys[0] != without})


def _parsed(path: Path) -> tuple[dict[str, Any], dict[Keys, str]]:
    """The file's values, and their places."""
    import yaml

    text = read_text(path, "task", most=4 * MOST_CHARACTERS)  # bytes
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"is longer than {MOST_CHARACTERS:,} characters", where=str(path))
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:  # characters that YAML has not
        raise UsageError(f"not valid YAML: {error}", where=str(path)) from error
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UsageError("is no task: expected lines such as 'task: name'", where=str(path))
        places = dict(_places(node, path))
        return loader.construct_document(node), places
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"not valid YAML: {error.problem}", where=f"{path}{line}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"not valid YAML: {error}", where=str(path)) from error
    except RecursionError:
        raise UsageError("is nested too deep", where=str(path)) from None
    finally:
        loader.dispose()


def _places(root: Any, path: Path) -> Iterator[tuple[Keys, str]]:
    """The keys that lead to each value, and its place; of a key that is there several times those
    of the last, which alone is left, as lm-eval reads it. Raises UsageError for code, for halves of
    characters and for aliases that stand for too much."""
    import yaml

    waiting: list[tuple[Keys, Any]] = [((), root)]
    seen = 0
    while waiting:
        keys, node = waiting.pop()
        at = f"{path}:{node.start_mark.line + 1}"
        seen += 1
        if seen + len(waiting) > MOST_VALUES or len(keys) > DEEPEST:
            raise UsageError("holds too many values, or nests them too deep", where=at)
        if node.tag == CODE_TAG:
            name = ".".join(str(key) for key in keys)
            raise UsageError(
                f"{name} is Python code ({CODE_TAG} {node.value})", where=at, hint=NO_CODE
            )
        if keys:
            yield keys, at
        if isinstance(node, yaml.ScalarNode):
            _check_characters(node.value, ".".join(map(str, keys)), at)
        if isinstance(node, yaml.SequenceNode):
            waiting += [((*keys, place), item) for place, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            node.value = _last_of_each(node.value, path)
            for key, value in node.value:
                name = str(key.value)
                at = f"{path}:{key.start_mark.line + 1}"
                _check_characters(name, "a key", at)
                yield (*keys, name), at
                waiting.append(((*keys, name), value))


def _check_characters(text: str, name: str, at: str) -> None:
    """Raise UsageError for half of a surrogate pair (an escape that YAML reads by itself)."""
    if not is_encodable(text):
        raise UsageError(f"{name} {HALF_CHARACTER}", where=at, hint=_IN_FULL)


def _last_of_each(pairs: list[tuple[Any, Any]], path: Path) -> list[tuple[Any, Any]]:
    """Of keys that are there several times the last alone; says so. What `<<` takes in is no such
    key: all of it counts."""
    last: dict[Any, tuple[Any, Any]] = {}
    for place, (key, value) in enumerate(pairs):
        name = place if key.tag == MERGE_TAG else (key.tag, str(key.value))
        if name in last:
            first = last[name][0].start_mark.line + 1
            _say_once(
                f"{path}:{key.start_mark.line + 1}: '{key.value}' is in line {first} already: "
                "the last counts, as lm-eval has it"
            )
        last[name] = key, value
    return list(last.values())


@cache
def _say_once(text: str) -> None:
    """Say it; a benchmark reads a task file several times."""
    say(text)
