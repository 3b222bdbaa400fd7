"""A report as JUnit XML, which continuous integration shows as tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tuneserve.bench.compare.analysis import group_outcome, group_said
from tuneserve.bench.compare.results import GroupComparison, Report
from tuneserve.bench.report.gates import Gate, failed_gates
from tuneserve.outputs import write_output

_XML = '<?xml version="1.0" encoding="utf-8"?>\n'
BEGIN = f'{_XML}<testsuites>\n  <testsuite name="tuneserve bench '
"""What every such file begins with."""
# What XML 1.0 has no way to write.
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FORGOTTEN = "nothing shown to be forgotten"


def write_junit(path: Path, report: Report, gates: Sequence[Gate]) -> None:
    """The two verdicts, every group of prompts and every gate, a test each. The first verdict and
    a group fail where the tuned model is shown to be worse, the second verdict and a kind of a
    further task where something is shown to be forgotten; it is skipped where that was not
    measured."""
    tests = [
        ("not shown to be worse", report.verdict.outcome == "worse", report.verdict.sentence),
        *(_of_group(group, report) for group in report.groups),
        (
            _FORGOTTEN,
            report.forgetting.outcome == "forgotten",
            report.forgetting.sentence,
        ),
        *(_of_group(kind, report, task.name) for task in report.tasks for kind in task.kinds),
        *(
            (gate.describe(), bool(below := failed_gates(report, [gate])), ", ".join(below))
            for gate in gates
        ),
    ]
    not_measured = report.forgetting.outcome == "not measured"
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(f"tuneserve bench {report.run}"),
        tests=str(len(tests)),
        failures=str(sum(failed for _, failed, _ in tests)),
        skipped=str(int(not_measured)),
        timestamp=report.created,
    )
    for name, failed, sentence in tests:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_clean(f"bench.{report.run}"), name=_clean(name)
        )
        if name == _FORGOTTEN and not_measured:
            ElementTree.SubElement(case, "skipped", message=_clean(sentence))
        elif failed:
            ElementTree.SubElement(case, "failure", message=_clean(sentence))
        elif sentence:
            ElementTree.SubElement(case, "system-out").text = _clean(sentence)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode", xml_declaration=False)
    write_output(path, f"{_XML}{text}\n", BEGIN)


def _of_group(group: GroupComparison, report: Report, of: str = "") -> tuple[str, bool, str]:
    """The test of one group; `of`: the task whose kind of prompts it is."""
    where = f"kind {group.name} of {of}" if of else f"group {group.name}"
    worse = group_outcome(group, report.confidence) == "worse"
    return f"not shown to be worse: {where}", worse, group_said(group, of)


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
