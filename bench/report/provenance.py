"""What it takes to repeat a benchmark: models, data, settings, versions, machine, command."""

from __future__ import annotations

import platform
import shlex

from tuneserve.bench.compare.results import Provenance
from tuneserve.bench.tasks.scorers import scorer_files
from tuneserve.files import sha256_file
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.options import BENCH_FIELDS, as_options, option_names
from tuneserve.run import RunDirectory, processor, versions
from tuneserve.settings import BenchSettings, Recipe


def provenance(run: RunDirectory, recipe: Recipe) -> Provenance:
    """Where a report comes from, for report.json and the pages."""
    trained = run.finished("train", TrainOutput)
    return Provenance(
        command=reproducing_command(run.name, recipe, Recipe.model_validate(run.saved_settings())),
        base_model=trained.base.spec if trained else recipe.model.base,
        test_sha256=sha256_file(run.split("test")),
        settings=recipe.model_dump(mode="json", include={"bench", "serve", "convert"}),
        versions=versions(),
        platform=platform.platform(),
        processor=processor(),
        scorer_files=_scorer_files(recipe.bench),
    )


def _scorer_files(settings: BenchSettings) -> dict[str, str]:
    if settings.task != "python":
        return {}
    return {path.name: sha256_file(path) for path in scorer_files(settings.scorer)}


def reproducing_command(run_name: str, recipe: Recipe, saved: Recipe) -> str:
    """The command line that repeats a benchmark, whatever other recipe its settings came from:
    every setting that is not the default, or not the one `saved` with the run."""
    options = as_options(recipe, option_names(("bench", "serve"), BENCH_FIELDS), saved)
    return shlex.join(["tuneserve", "bench", "--run", run_name, "--force", *options])
