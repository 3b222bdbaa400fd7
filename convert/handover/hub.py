"""Upload to a repository on a hub, by huggingface_hub's own client.

The client reads HF_ENDPOINT and HF_TOKEN, or the token that `hf auth login` kept. A file that the
hub has already is not sent again, so that a push that broke off is ended by the next one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuneserve.convert.handover.files import SUMS, HandedFile, sums_of
from tuneserve.errors import TuneserveError, UsageError

_PART = re.compile(r"(?=.{1,96}\Z)\w([\w.-]*\w)?", re.ASCII)


def check_repository(name: str) -> None:
    """Raise UsageError if this is no 'owner/name' that huggingface_hub takes."""
    owner, _, own = name.partition("/")
    if not own or not all(map(_PART.fullmatch, (owner, own))):
        raise UsageError(
            "a repository is named owner/name, each of letters, digits, '_', '-' and '.', at most "
            "96, with no '-' or '.' at its ends",
            where=f"--to {name}",
        )
    if ".." in name or "--" in name or name.endswith(".git"):
        raise UsageError(
            "a repository's name has no '..' or '--' in it, and does not end in '.git'",
            where=f"--to {name}",
        )


def push(files: Sequence[HandedFile], repository: str, *, private: bool, message: str) -> str:
    """Upload the files, and the list of their hashes, in one commit into a model repository, which
    is made if it is not there; returns the commit's URL.

    `private` holds for a repository that is made. Raises TuneserveError if the hub refuses, or is
    not reached.
    """
    check_repository(repository)
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        operations = [CommitOperationAdd(file.name, file.content or str(file.path))
                      for file in files]  # fmt: skip
        operations.append(CommitOperationAdd(SUMS, sums_of(files).encode()))
        made = api.create_commit(repository, operations, commit_message=message)
    except (HfHubHTTPError, LocalTokenNotFoundError, httpx.HTTPError, ValueError, OSError) as error:
        raise TuneserveError(
            f"the hub does not take the files: {_first_line(error)}",
            where=f"{api.endpoint}/{repository}",
            hint="Check the name, the network and that you are logged in (HF_TOKEN, or hf auth "
            "login). The same command goes on where it broke off.",
        ) from error
    return str(made.commit_url)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
