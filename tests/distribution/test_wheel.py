"""What is installed: one top-level name, all data files, and nobody else's modules taken over."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.distribution.distribution_support import STAGES, build
from tests.support import ROOT
from tuneserve import extras
from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.libraries import unsloth_command

DATA_ENDINGS = (".toml", ".html", ".css", ".js", ".j2", ".jinja", ".txt", ".json", ".jsonl")


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_only_top_level_name_is_tuneserve(wheel: Path) -> None:
    assert {name.split("/")[0] for name in members(wheel)} == {"tuneserve"}


def test_all_modules_and_data_files_are_in_the_wheel(wheel: Path, checkout: Path) -> None:
    expected = {
        str(Path("tuneserve") / path.relative_to(checkout))
        for stage in STAGES
        for path in (checkout / stage).rglob("*")
        if path.is_file() and path.suffix in (".py", *DATA_ENDINGS)
    }
    assert expected <= members(wheel)
    assert {"tuneserve/py.typed", "tuneserve/recipes/sentiment.toml"} <= members(wheel)


def test_the_wheel_of_the_source_distribution_is_the_same(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    with tarfile.open(build("sdist", checkout, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    target = tmp_path / "wheel"
    target.mkdir()
    assert members(build("wheel", source, target)) == members(wheel)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder whose own files have the stages' names."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("serve.py", "convert.py", "bench/__init__.py", "finetune/__init__.py"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('the file of the user ran')\n")
    return folder


@pytest.mark.parametrize("place", ["installed", "checkout"])
@pytest.mark.parametrize("command", ["serve", "convert", "bench", "train"])
def test_a_folder_with_modules_of_the_same_names(
    place: str, command: str, hostile: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(place)
    done = subprocess.run(
        [sys.executable, "-m", "tuneserve", command, "--help"],
        cwd=hostile, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Usage: tuneserve {command}" in done.stdout


def test_the_same_pin_of_unsloth_in_the_readme() -> None:
    assert unsloth_command() in (ROOT / "README.md").read_text(encoding="utf-8")


def required(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(name).decode().splitlines()
    return [
        Requirement(line.split(": ", 1)[1]) for line in lines if line.startswith("Requires-Dist")
    ]


def test_serving_brings_no_torch(wheel: Path) -> None:
    always = {need.name for need in required(wheel) if need.marker is None}
    assert not always & {"torch", "unsloth", "transformers", "peft", "trl", "datasets"}
    assert {"llama-cpp-python", "openai", "click", "fastapi"} <= always
    whole = {need.name for need in required(wheel)}
    assert {"unsloth", "torch", "transformers", "datasets", "peft", "bitsandbytes", "trl"} <= whole


def test_a_missing_extra_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(_: str) -> list[str]:
        return [
            "click>=8.1",
            'no-such-package[x]>=2; extra == "train"',
            'pytest; extra == "train"',
            'tuneserve[train]; extra == "all"',
        ]

    monkeypatch.setattr("importlib.metadata.requires", requires)
    assert extras.missing_packages("train") == ["no-such-package"]
    assert extras.missing_packages("all") == ["no-such-package"]
    assert extras.missing_packages("bench") == []
    with pytest.raises(UsageError) as caught:
        extras.require_extra("train", "training")
    assert str(caught.value) == (
        "training needs more packages: pip install 'tuneserve[train]' "
        "(not installed: no-such-package)"
    )


def test_nothing_is_imported_that_is_not_in_the_wheel(installed: Path) -> None:
    strangers = {"tests", "benchmarks", *STAGES}
    for path in (installed / "tuneserve").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
            assert not strangers & {name.split(".")[0] for name in names}, path
