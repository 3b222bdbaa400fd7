"""A page's server over runs that have a real record."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.run_support import write_run
from tests.support import ModulePaths
from tests.ui.ui_support import RunningUI, running_ui


@pytest.fixture(scope="module")
def ui(module_paths: ModulePaths) -> Iterator[RunningUI]:
    """Two runs, `first` with a report and a log."""
    folder = module_paths.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_run("first")
        write_run("second", max_steps=7)
    first = folder / "runs" / "first"
    (first / "bench" / "report.html").write_text("<!doctype html><title>Report</title><p>7 of 9")
    (first / "logs").mkdir()
    (first / "logs" / "convert.log").write_text("$ tuneserve convert\nverified \x1b[31m<b>&\n")
    with running_ui(folder) as running:
        yield running
