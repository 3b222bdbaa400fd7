"""What a command does to have a stage tracked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tuneserve.console import say
from tuneserve.errors import TuneserveError
from tuneserve.extras import require_extra
from tuneserve.files import read_json, write_json
from tuneserve.run import RunDirectory, runs_directory
from tuneserve.settings import Recipe
from tuneserve.tracking.backends import BACKENDS, Opening, Tracker, mlflow_client
from tuneserve.tracking.figures import figures_of, settings_of, tracked_name

FILE = "tracking.json"


class Tracking:
    """A stage of a run for the trackers that the recipe names; nothing where it names none.

    Trackers are opened with the first figure. One that fails is left out from then on, with a
    warning: a training is not lost for it.
    """

    def __init__(
        self, recipe: Recipe, run: RunDirectory, stage: str, *, anew: bool = False
    ) -> None:
        """`anew`: a training that starts afresh gets new tracked runs. Raises UsageError for a
        tracker that is not installed, TuneserveError for a server that can't be reached."""
        self._recipe, self._run, self._stage = recipe, run, stage
        self._anew = anew
        self._open: dict[str, Tracker] = {}
        self._left = list(recipe.tracking.track)
        # A training that starts afresh may find a record that can't be read.
        self._before = None if anew else self._finished()
        for name in self._left:
            require_extra(name, f"tracking with {name}")
        if "mlflow" in self._left and recipe.tracking.track_address:
            self._check_server()

    @property
    def active(self) -> bool:
        """Is there anything to track for?"""
        return bool(self._left)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Values of an optimizer step."""
        named = {tracked_name(name): value for name, value in values.items()}
        self._each(lambda tracker: tracker.scalars(named, step))

    def finish(self) -> None:
        """Track the stage's result, if it was made since this was opened."""
        entry = self._run.read().stages.get(self._stage)
        if entry is None or not self._left or self._finished() == self._before:
            return
        figures, texts = figures_of({**entry.result, "seconds": entry.seconds})
        self._each(lambda tracker: tracker.results(figures, texts))
        if self._open:
            say(f"tracked: {', '.join(self._open)}")

    def close(self, *, failed: bool) -> None:
        """The stage is over."""
        self._each(lambda tracker: tracker.close(failed=failed), opened=True)
        self._open = {}

    def _finished(self) -> str | None:
        entry = self._run.read().stages.get(self._stage)
        return entry.finished if entry is not None else None

    def _each(self, do: Callable[[Tracker], None], *, opened: bool = False) -> None:
        for name in list(self._left):
            if opened and name not in self._open:
                continue
            try:
                do(self._tracker(name))
            except Exception as error:
                self._left.remove(name)
                self._open.pop(name, None)
                reason = (str(error) or type(error).__name__).splitlines()[0]
                say(f"WARNING: {name}: {reason}: nothing is tracked there from here on")

    def _tracker(self, name: str) -> Tracker:
        if name not in self._open:
            self._open[name] = BACKENDS[name](self._opening(name))
            self._remember(name, self._open[name].id)
        return self._open[name]

    def _opening(self, name: str) -> Opening:
        settings = self._recipe.tracking
        known = None if self._anew else self._known().get(name)
        runs_directory().mkdir(parents=True, exist_ok=True)
        tables = self._recipe.model_dump(mode="json", exclude={"tracking"})
        return Opening(
            project=settings.track_project,
            group=self._run.name,
            stage=self._stage,
            settings=settings_of(tables),
            folder=runs_directory(),
            known=known if self._stage == "train" else None,
            address=settings.track_address if name == "mlflow" else "",
            online=settings.track_online,
        )

    def _known(self) -> dict[str, str]:
        """The ids of the training's tracked runs, for when it goes on."""
        path = self._run.root / FILE
        return read_json(path) if path.is_file() else {}

    def _remember(self, name: str, number: str) -> None:
        if self._stage == "train" and self._run.root.is_dir():
            write_json(self._run.root / FILE, {**self._known(), name: number})

    def _check_server(self) -> None:
        address = self._recipe.tracking.track_address
        try:
            client = mlflow_client(self._opening("mlflow"))
            client.get_experiment_by_name(self._recipe.tracking.track_project)
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise TuneserveError(
                f"MLflow can't be used there: {reason}",
                where=f"tracking.track_address {address}",
                hint="Start the server, or leave the address out: figures then go to "
                f"{runs_directory()}/mlflow.db.",
            ) from error


@contextmanager
def tracked(
    recipe: Recipe, run: RunDirectory, stage: str, *, anew: bool = False
) -> Iterator[Tracking]:
    """Track a stage while the block runs; it calls `Tracking.finish` with the stage's result in
    run.json."""
    tracking = Tracking(recipe, run, stage, anew=anew)
    try:
        yield tracking
    except BaseException:
        tracking.close(failed=True)
        raise
    tracking.close(failed=False)
