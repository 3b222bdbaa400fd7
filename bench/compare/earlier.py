"""A report that the run's record no longer has: the run was converted or trained again since, or
its benchmark ended before it was recorded."""

from __future__ import annotations

from tuneserve.bench.compare.report_file import REPORT_SCHEMA
from tuneserve.convert.result import ConvertOutput
from tuneserve.errors import TuneserveError
from tuneserve.records import Record, parse, read_versioned
from tuneserve.run import RunDirectory, RunRecord


class _Sentence(Record):
    sentence: str


class _Share(Record):
    value: float


class _Shares(Record):
    base: _Share
    tuned: _Share


class _Model(Record):
    quantization: str
    sha256: str


class _Report(Record):
    """Of report.json what every release wrote and is told here."""

    verdict: _Sentence
    accuracy: _Shares
    tuned: _Model


class EarlierReport(Record):
    """What an earlier report says, and of which GGUF it is, in words; `converted`: does the run
    have a GGUF now?"""

    of: str
    converted: bool
    verdict: str
    accuracy_base: float
    accuracy_tuned: float

    def describe(self, run: str) -> str:
        """Of what it is, and how the run gets one of what there is now."""
        again = "bench" if self.converted else "convert"
        flags = " --rescore" if self.converted else ""
        return f"The benchmark is {self.of}: tuneserve {again} --run {run}{flags}"


def earlier_report(run: RunDirectory, record: RunRecord | None = None) -> EarlierReport | None:
    """The report in the run's folder that its `record` (read now where it is not given) does not
    know; None where the record has the benchmark, or there is no report that can be read."""
    record = record or run.read()
    if "bench" in record.stages:
        return None
    path = run.bench / "report.json"
    try:
        content = read_versioned(path, REPORT_SCHEMA, hint="")
        found = parse(_Report, content, where=str(path), hint="")
    except (FileNotFoundError, TuneserveError):
        return None  # of a damaged report, or a newer release's, nothing is known
    converted = run.finished("convert", ConvertOutput, record=record)
    return EarlierReport(
        of=_of(found.tuned, converted),
        converted=converted is not None,
        verdict=found.verdict.sentence,
        accuracy_base=found.accuracy.base.value,
        accuracy_tuned=found.accuracy.tuned.value,
    )


def _of(model: _Model, converted: ConvertOutput | None) -> str:
    if converted is None:
        return f"of {model.quantization} of an earlier training; the run is not converted now"
    if model.sha256 == converted.tuned.sha256:
        return "of this GGUF, but ended before it was recorded"
    now = converted.base.quantization
    if model.quantization != now:
        return f"of {model.quantization}; the GGUF is now {now}"
    return f"of an earlier conversion to {now}"
