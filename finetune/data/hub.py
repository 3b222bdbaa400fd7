"""Data sets of the hub: fetched once when named, kept as Parquet, then used offline."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import atomic_path, cache_directory
from tuneserve.finetune.data.data_files import is_there
from tuneserve.finetune.runtime.libraries import quiet
from tuneserve.in_use import use

HUB_PREFIX = "hub:"
FETCHED = re.compile(r"[A-Za-z0-9][\w.-]*--[\w.-]+--[\w.-]+--[\w.-]+\.parquet")
"""Name of a data set in the cache: its owner, name, configuration and split."""
_SPEC = re.compile(
    r"hub:(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True)
class HubData:
    """A split of a data set: 'owner/name', its configuration (None: the only one), its split."""

    repository: str
    config: str | None
    split: str

    @property
    def cached(self) -> Path:
        """Where it is kept on this machine."""
        name = "--".join((*self.repository.split("/"), self.config or "default", self.split))
        return cache_directory() / "data" / "hub" / f"{name}.parquet"


def local_path(path: Path) -> Path:
    """The file that a data path means: itself, or a hub data set's copy, fetched if need be, which
    stays until this process ends.

    Raises UsageError for a name that is none, TuneserveError if the data set can't be had.
    """
    data = _hub_data(path)
    if data is None:
        return path
    while not (data.cached.is_file() and use(data.cached)):
        fetch(data, str(path))
    return data.cached


def is_here(path: Path) -> bool:
    """Is what a data path means on this machine? Never asks the hub.

    Raises UsageError for a name that is none.
    """
    data = _hub_data(path)
    return is_there(path) if data is None else data.cached.is_file()


def _hub_data(path: Path) -> HubData | None:
    """The hub data set that a data path names, None for a file."""
    spec = str(path)
    if not spec.startswith(HUB_PREFIX):
        return None
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise UsageError(
            "not the name of a hub data set",
            where=spec,
            hint="Write hub:owner/name, hub:owner/name@split or hub:owner/name:config@split.",
        )
    return HubData(found["repository"], found["config"], found["split"] or "train")


def fetch(data: HubData, spec: str) -> None:
    """Load a data set (by its name, or from a directory laid out like one) and keep its rows."""
    with quiet(errors_too=True):
        import datasets

        try:
            rows = datasets.load_dataset(data.repository, data.config, split=data.split)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            # No network, no such data set, configuration or split, one that needs code of its own.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TuneserveError(
                f"the hub data set can't be had: {reason[:200]}",
                where=spec,
                hint="Check the name and the network (and HF_TOKEN for a gated one), or name a "
                "local file.",
            ) from error
    with atomic_path(data.cached) as temporary, quiet(errors_too=True):
        rows.to_parquet(temporary)
