"""The lines of a batch's input file: validated when the batch is made, read again one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneserve.serve.api.batches.types import BatchLine, BatchProblem
from tuneserve.serve.api.strict_json import NAMED, JsonLimits, is_blank, read_json

MOST_LINES = 50_000
SHOWN_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands in its file (bytes), and its id."""

    custom_id: str
    start: int
    length: int


def read_places(
    path: Path, endpoint: str, *, longest: int, limits: JsonLimits
) -> tuple[list[Place], list[BatchProblem]]:
    """The requests of a file, and what is wrong with it; lines of nothing but space are skipped.
    `longest`: bytes of a line at most; `limits`: those of the JSON of a request."""
    limits = replace(
        limits,
        depth=limits.depth + 1,
        containers=limits.containers + 1,
        values=limits.values + NAMED * (len(BatchLine.model_fields) + 1),
    )
    places: list[Place] = []
    problems: list[BatchProblem] = []
    known: set[str] = set()
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not is_blank(line):
                found = _checked(line, number, endpoint, known, longest, limits)
                if isinstance(found, str):
                    known.add(found)
                    places.append(Place(found, start, len(line)))
                else:
                    problems.append(found)
                if len(places) > MOST_LINES:
                    message = f"A batch has at most {MOST_LINES} requests."
                    problems.append(_problem("too_many_requests", message, None))
                if len(problems) >= SHOWN_PROBLEMS or len(places) > MOST_LINES:
                    break
            start += len(line)
    if not places and not problems:
        problems.append(_problem("empty_file", "The input file has no requests.", None))
    return places, problems


def _checked(
    line: bytes, number: int, endpoint: str, known: set[str], longest: int, limits: JsonLimits
) -> str | BatchProblem:
    """The custom id of a line, or what is wrong with it."""
    if len(line) > longest:
        return _problem("line_too_long", f"A line has at most {longest} bytes.", number)
    try:
        limits.check(line)
        value = read_json(line)
    except ValueError as error:
        return _problem("invalid_json_line", str(error), number)
    if not isinstance(value, dict):
        return _problem("invalid_json_line", "This line is no JSON object.", number)
    try:
        request = BatchLine.model_validate(value)
    except ValidationError as error:
        detail = error.errors()[0]
        field = ".".join(map(str, detail["loc"]))
        return _problem("invalid_line", f"{field}: {detail['msg']}", number, field or None)
    if request.url != endpoint:
        message = f"Its url is {request.url[:64]!r}, and the batch is for {endpoint}."
        return _problem("mismatched_url", message, number, "url")
    if request.custom_id in known:
        message = f"The custom_id {request.custom_id[:64]!r} stands in an earlier line too."
        return _problem("duplicate_custom_id", message, number, "custom_id")
    return request.custom_id


def read_body(path: Path, place: Place) -> dict[str, Any]:
    """The request that stands at a place."""
    with path.open("rb") as file:
        file.seek(place.start)
        body: dict[str, Any] = read_json(file.read(place.length))["body"]
        return body


def _problem(code: str, message: str, line: int | None, param: str | None = None) -> BatchProblem:
    return BatchProblem(code=code, message=message, line=line, param=param)
