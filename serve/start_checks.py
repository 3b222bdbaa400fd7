"""What is checked before a server is started: files of keys and of TLS, who can reach it, and how
many connections it may have."""

from __future__ import annotations

import ipaddress
import resource
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path

from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.hosts import ANY, OPAQUE, address_name
from tuneserve.llama import check_is_gguf
from tuneserve.serve.api.batches.files import FileStore
from tuneserve.serve.api.middleware import read_keys
from tuneserve.serve.api.open_connections import ConnectionLimits
from tuneserve.settings import ServeSettings

BACKLOG = 1024
"""Connections that the kernel holds until they are taken, many at once."""
KEPT_DESCRIPTORS = 128
"""Open files for all but connections: model files, prefixes, batches, logs."""
LEAST_CONNECTIONS = 8


def check_start(
    model_path: Path,
    settings: ServeSettings,
    *,
    adapters: Mapping[str, Path] | None = None,
    lora: Path | None = None,
) -> None:
    """Raise UsageError for a file or a setting that is wrong, before anything is loaded; warn of
    files of keys that others can read."""
    draft = [settings.draft] if settings.draft else []
    for path in (model_path, *([lora] if lora else []), *(adapters or {}).values(), *draft):
        check_is_gguf(path)
    check_tls(settings)
    check_log(settings)
    check_admin(settings)
    if settings.batch_dir is not None:
        FileStore(settings.batch_dir, most_bytes=0).close()
    read_keys(settings.api_key_file)
    for key_file in (settings.api_key_file, settings.admin_key_file):
        warn_of_readable(key_file)


def check_tls(settings: ServeSettings) -> None:
    """Raise UsageError unless certificate and key are both absent or both usable."""
    if settings.tls_cert is None and settings.tls_key is None:
        return
    if settings.tls_cert is None or settings.tls_key is None:
        raise UsageError("a TLS certificate and its key belong together", where="tls_cert, tls_key")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_cert, settings.tls_key
        )
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or error
        raise UsageError(
            f"not a usable TLS certificate and key: {reason}", where=str(settings.tls_cert)
        ) from error


def check_admin(settings: ServeSettings) -> None:
    """Raise UsageError if adapters are to be loaded from nowhere, or without a usable key."""
    read_keys(settings.admin_key_file)
    if settings.admin_key_file is not None and settings.adapter_dir is None:
        raise UsageError(
            "admin keys are for loading adapters, and there is no directory of them",
            where="admin_key_file",
            hint="Add --adapter-dir DIR.",
        )
    if settings.adapter_dir is not None and not settings.adapter_dir.is_dir():
        raise UsageError("no such directory", where=str(settings.adapter_dir))


def check_reach(host: str, settings: ServeSettings) -> None:
    """Raise UsageError if others can use a server without keys and nobody has said that they may;
    else warn."""
    pages = [origin for origin in settings.cors_origins if origin in (ANY, OPAQUE)]
    if not _is_loopback(host):
        where, otherwise = "host", "--host 127.0.0.1"
        told = f"{host} can be reached from other machines, and no API key is asked for"
    elif pages:
        where, otherwise = "cors_origins", "name the origins"
        told = f"any web page can call the server ({pages[0]}), and no API key is asked for"
    elif ANY in settings.allowed_hosts:
        # By a name of the page's own that is made to point to this machine (DNS rebinding).
        where, otherwise = "allowed_hosts", "name the hosts"
        told = f"any web page can call the server (host {ANY}), and no API key is asked for"
    else:
        return
    if not settings.insecure:
        raise UsageError(
            told,
            where=where,
            hint=f"Use --api-key-file, or {otherwise}; --insecure starts without a key.",
        )
    say(f"warning: {told}")


def warn_of_readable(path: Path | None) -> None:
    """Say so if other users of this machine can read, or change, a file of keys."""
    mode = path.stat().st_mode if path is not None else 0
    for bit, what in ((stat.S_IWOTH, "change"), (stat.S_IROTH, "read")):
        if mode & bit:
            say(f"warning: every user of this machine can {what} the keys in {path}: chmod 600")
            return


def connection_limits(settings: ServeSettings, *, files_each: int = 1) -> ConnectionLimits:
    """The settings' limits, with as many connections as the limit of open files allows, each of
    which takes so many; that limit is raised as far as the system lets it. Raises UsageError if it
    allows none."""
    wanted = settings.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_each * wanted + min(BACKLOG, wanted) + KEPT_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            wanted = (soft - min(KEPT_DESCRIPTORS, soft // 2)) // (files_each + 1)
            if wanted < LEAST_CONNECTIONS:
                raise UsageError("too few files may be open", where=f"ulimit -n {soft}")
            say(f"note: {wanted} connections at most, since {soft} files may be open (ulimit -n)")
    return ConnectionLimits(
        max_url=settings.max_url,
        max_header_bytes=settings.max_header_bytes,
        max_headers=settings.max_headers,
        receive_seconds=settings.receive_seconds,
        send_seconds=settings.send_seconds,
        max_connections=wanted,
        max_client_connections=settings.max_client_connections,
    )


def check_log(settings: ServeSettings) -> None:
    """Raise UsageError if prompts are to be in a log that has no place for them."""
    if settings.log_prompts and settings.log != "json":
        raise UsageError(
            f"prompts are written to the JSON log only, and the log is '{settings.log}'",
            where="log_prompts",
            hint="Add --log json.",
        )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(address_name(host)).is_loopback
