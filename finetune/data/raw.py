"""A record as it stands in a file, before it is known to be an example."""

from __future__ import annotations

from typing import Any, NamedTuple


class RawRecord(NamedTuple):
    """Its place ('file:line'), the record or a BadRecord that says why there is none, and the side
    of the split ('train', 'eval', 'test') that the name of its file or its key there says, if one
    does. `file` names the file among those that are read with it."""

    place: str
    record: Any
    side: str | None = None
    file: str = ""
