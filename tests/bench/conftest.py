"""A converted run to benchmark: the demo model as base, and with disturbed weights as tuned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.bench_support import disturb, make_run, rows
from tests.support import running_server
from tuneserve.bench.stage import run_bench
from tuneserve.finetune.training.result import Losses, Steps, TrainedBase, TrainOutput
from tuneserve.run import RunDirectory, StageRecord
from tuneserve.settings import BenchSettings, Recipe, ServeSettings


@pytest.fixture(scope="session")
def ggufs(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bench-models")
    tuned = folder / "tuned.gguf"
    disturb(demo_gguf, tuned, 0.05)
    return {"base": demo_gguf, "tuned": tuned}


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        serve=ServeSettings(threads=1),
        bench=BenchSettings(
            max_tokens=6,
            ctx=256,
            parallel=4,
            bootstrap=1000,
            speed_repetitions=2,
            general=0,
            clients=(),
        ),
    )


@pytest.fixture
def converted_run(tmp_path: Path, ggufs: dict[str, Path], recipe: Recipe) -> RunDirectory:
    return make_run(tmp_path, ggufs, recipe)


@pytest.fixture(scope="session")
def endpoint(ggufs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The disturbed model behind `tuneserve serve`."""
    log = tmp_path_factory.mktemp("endpoint") / "log"
    with running_server(log, str(ggufs["tuned"]), "--ctx", "1024", wait=240) as server:
        yield f"{server.url}/v1"


@pytest.fixture(scope="session")
def full_recipe(recipe: Recipe, endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Everything that a benchmark can measure, switched on."""
    text = tmp_path_factory.mktemp("texts") / "plain.txt"
    text.write_text(" ".join(f"House number {n} has a red door." for n in range(150)))
    trivia = text.with_name("trivia.jsonl")
    trivia.write_text("".join(json.dumps(row) + "\n" for row in rows()[:4]))
    more = {
        "noise_floor": True,
        "endpoint": endpoint,
        "texts": (str(text),),
        "tasks": (f"{trivia}=contains",),
        "general": 9,
        "clients": (1, 2),
    }
    return recipe.model_copy(update={"bench": recipe.bench.model_copy(update=more)})


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, ggufs: dict[str, Path], full_recipe: Recipe
) -> RunDirectory:
    """A run with its benchmark done; only to be read."""
    run = make_run(tmp_path_factory.mktemp("finished"), ggufs, full_recipe)
    general = rows()[:2]
    run.split("general").write_text("".join(json.dumps(row) + "\n" for row in general))
    trained = TrainOutput(
        base=TrainedBase(spec="demo", path="base", name="demo"),
        losses=Losses(train=[(1, 2.0), (2, 1.0)], eval=[(2, 1.5)], general=[(2, 0.5)]),
        steps=Steps(planned=2, done=2, best=2, resumed_from=None),
    )
    entry = StageRecord(result=trained.to_json())
    run.update(stages={"train": entry, **run.read().stages})
    run_bench(run, full_recipe)
    return run
