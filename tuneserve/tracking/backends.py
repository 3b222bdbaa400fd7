"""MLflow, Weights & Biases and trackio behind one interface. Each library is imported when a run
is opened there."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_FLUSH_SECONDS = 10.0
_BATCH = 100  # of what MLflow takes at a time: metrics (1,000), parameters and tags (100)
_LONGEST_TEXT = 500


@dataclass(frozen=True)
class Opening:
    """What a tracked run is opened with. `group`: the run's name, `stage` what is tracked of it;
    `known`: the id of a training that goes on; `folder`: where files go; `address`: of a server;
    `online`: may it be reached?"""

    project: str
    group: str
    stage: str
    settings: Mapping[str, str]
    folder: Path
    known: str | None = None
    address: str = ""
    online: bool = False

    @property
    def name(self) -> str:
        return f"{self.group}-{self.stage}"


class Tracker(Protocol):
    """A tracked run of a stage; `id` opens it again."""

    id: str

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Values of an optimizer step."""

    def results(self, figures: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """What a stage ends with."""

    def close(self, *, failed: bool) -> None:
        """The stage is over."""


class MlflowTracker:
    """A run of MLflow, on a server or in an SQLite file."""

    def __init__(self, opening: Opening) -> None:
        self._client = mlflow_client(opening)
        if opening.known is None:
            experiment = self._client.get_experiment_by_name(opening.project)
            where = (opening.folder / "mlflow-artifacts").absolute().as_uri()
            number = (
                experiment.experiment_id
                if experiment is not None
                else self._client.create_experiment(
                    opening.project, artifact_location=None if opening.address else where
                )
            )
            tags = {"tuneserve.run": opening.group, "tuneserve.stage": opening.stage}
            run = self._client.create_run(number, run_name=opening.name, tags=tags)
            self.id: str = run.info.run_id
            self._log(params=opening.settings)
        else:
            self.id = opening.known
            self._client.update_run(self.id, status="RUNNING")
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._waiting += self._metrics(values, step)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def results(self, figures: Mapping[str, float], texts: Mapping[str, str]) -> None:
        self._waiting += self._metrics(figures, 0)
        self._log(tags=texts)

    def close(self, *, failed: bool) -> None:
        self._flush()
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")

    def _metrics(self, values: Mapping[str, float], step: int) -> list[Any]:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        return [Metric(name, value, now, step) for name, value in values.items()]

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        while self._waiting:
            self._client.log_batch(self.id, metrics=self._waiting[:_BATCH])
            self._waiting = self._waiting[_BATCH:]

    def _log(
        self, params: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        from mlflow.entities import Param, RunTag

        made = [Param(name, text[:_LONGEST_TEXT]) for name, text in (params or {}).items()]
        for first in range(0, len(made), _BATCH):
            self._client.log_batch(self.id, params=made[first : first + _BATCH])
        marks = [RunTag(name, text) for name, text in (tags or {}).items()]
        for first in range(0, len(marks), _BATCH):
            self._client.log_batch(self.id, tags=marks[first : first + _BATCH])


def mlflow_client(opening: Opening) -> Any:
    """A client of the server, or of the SQLite file in the folder."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(opening.address or f"sqlite:///{opening.folder.absolute() / 'mlflow.db'}")


class WandbTracker:
    """A run of Weights & Biases: as files for `wandb sync`, or sent as it goes."""

    def __init__(self, opening: Opening) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self.id = opening.known or secrets.token_hex(4)
        # Offline nothing is there to resume: what has one id becomes one run when it is synced.
        self._run = wandb.init(
            project=opening.project,
            name=opening.name,
            group=opening.group,
            job_type=opening.stage,
            id=self.id,
            resume="allow" if opening.online else None,
            mode="online" if opening.online else "offline",
            dir=str(opening.folder),
            config=dict(opening.settings),
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True,
                x_disable_stats=True,
            ),
        )  # fmt: skip
        # A training that goes on repeats steps, which W&B's own counter does not take.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def results(self, figures: Mapping[str, float], texts: Mapping[str, str]) -> None:
        self._run.summary.update({**figures, **texts})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


class TrackioTracker:
    """A run of trackio, in files."""

    def __init__(self, opening: Opening) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(opening.folder.absolute() / "trackio"))
        self.id = opening.known or f"{opening.name}-{time.strftime('%Y%m%dT%H%M%S')}"
        with contextlib.redirect_stdout(sys.stderr):  # stdout is a program's
            import trackio

            self._run = trackio.init(
                project=opening.project, name=self.id, group=opening.group, resume="allow",
                config=dict(opening.settings), embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def results(self, figures: Mapping[str, float], texts: Mapping[str, str]) -> None:
        self._run.log({**figures, **texts})

    def close(self, *, failed: bool) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


BACKENDS: dict[str, type[Any]] = {
    "mlflow": MlflowTracker, "wandb": WandbTracker, "trackio": TrackioTracker,
}  # fmt: skip
