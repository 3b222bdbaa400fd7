"""What all tests share: the demo model, a cache that is theirs, a command-line runner."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hypothesis
import hypothesis.core as hypothesis_core
import pytest

from tests.support import ROOT, ModulePaths, Runner
from tuneserve.base import resolve_base
from tuneserve.base.resolve import demo_gguf as find_demo_gguf
from tuneserve.extras import missing_packages
from tuneserve.files import cache_directory
from tuneserve.locks import locked

SLOW_FIXTURES = frozenset(
    {
        "server", "start_server", "service", "engine",  # a server or its engine
        "trained", "tokenizer_directory",  # checkpoints made with torch, to be converted
        "workspace",  # a training
        "ggufs",  # a benchmark's two models
    }
)  # fmt: skip
"""A test that needs one of these is marked slow, as those are that say so themselves."""

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tuneserve", deadline=None)
hypothesis.settings.load_profile("tuneserve")

# Nothing in the tests may depend on a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # The workers share the cores, and Unsloth's compiled modules are written without a lock.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault(
        "UNSLOTH_COMPILE_LOCATION", str(cache_directory() / f"unsloth_compiled_{worker}")
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis draws its examples from the seed that orders the tests, unless it has its own."""
    if config.getoption("hypothesis_seed", None) is None:
        hypothesis_core.global_force_seed = config.getoption("randomly_seed", None)


MISSING = frozenset(name.replace("-", "_") for name in missing_packages("all"))
"""Modules of the extras that are not installed: the tests that need them are skipped."""


def missing_module(report: pytest.CollectReport | pytest.TestReport) -> str | None:
    """The module of an extra for whose lack a file or a test failed."""
    found = re.search(r"ModuleNotFoundError: No module named '(\w+)", report.longreprtext)
    return found[1] if found and found[1] in MISSING else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    skip_without_extra(report, collector.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    skip_without_extra(report, item.path)
    return report


def skip_without_extra(report: pytest.CollectReport | pytest.TestReport, path: Path) -> None:
    if MISSING and report.failed and (module := missing_module(report)):
        report.outcome = "skipped"
        report.longrepr = (str(path), 1, f"needs {module}: pip install 'tuneserve[all]'")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seed = terminalreporter.config.getoption("randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(
            f"order and random data from seed {seed}; again: --randomly-seed={seed}"
        )


@pytest.fixture(scope="module")
def module_paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModulePaths]:
    """Makes directories for a module's fixtures, and removes them after its last test."""
    paths = ModulePaths(tmp_path_factory)
    yield paths
    paths.remove()


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct, a real model of 135 M parameters (GGUF, Q4_1)."""
    return find_demo_gguf()


@pytest.fixture(scope="session")
def demo_base() -> Path:
    """The demo model as a checkpoint."""
    return resolve_base("demo").path


@pytest.fixture(scope="session")
def demo_tokenizer(demo_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_base)


@pytest.fixture(scope="session")
def tuneserve() -> Runner:
    """Run the `tuneserve` command as a user would: `tuneserve("serve", "x.gguf", cwd=…)`.
    `env` is added to the environment."""

    def run(
        *arguments: str,
        cwd: Path = ROOT,
        timeout: float = 300,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "tuneserve", *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        )
        if MISSING and "needs more packages: pip install" in done.stderr:
            pytest.skip(done.stderr.strip())
        return done

    return run


@pytest.fixture(scope="session")
def llama_cpp_source() -> Path:
    """llama.cpp's source, from llama-cpp-python's source package; fetched once into the cache."""
    release = "llama_cpp_python-0.3.36"
    folder = cache_directory() / "sources"
    inside = folder / release / "vendor" / "llama.cpp"
    with locked(folder / ".lock"):
        if inside.is_dir():
            return inside
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary",
                   ":all:", "--dest", str(folder), "llama-cpp-python==0.3.36"]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            with tarfile.open(folder / f"{release}.tar.gz") as archive:
                archive.extractall(folder, filter="data")
        except (subprocess.SubprocessError, OSError, tarfile.TarError) as error:
            pytest.skip(f"llama-cpp-python's source package can't be had: {error}")
    return inside


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core (MPL-2.0), which finds what keeps people from using a page. The wheel
    that carries it is fetched once into the cache: installed, it would bring a browser along."""
    wheel = "axe_playwright_python-0.1.8-py3-none-any.whl"
    folder = cache_directory() / "sources"
    with locked(folder / ".lock"):
        if not (folder / wheel).is_file():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest",
                       str(folder), "axe-playwright-python==0.1.8"]  # fmt: skip
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=300)
            except (subprocess.SubprocessError, OSError) as error:
                pytest.skip(f"the package with axe-core can't be had: {error}")
        with zipfile.ZipFile(folder / wheel) as archive:
            return archive.read("axe_playwright_python/axe.min.js").decode()
