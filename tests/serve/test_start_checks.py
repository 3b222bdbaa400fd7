"""What is checked before a server is started."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuneserve.errors import UsageError
from tuneserve.serve.start_checks import check_reach, connection_limits, warn_of_readable
from tuneserve.settings import ServeSettings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "fe80::1%eth0"])
def test_a_wide_address_needs_keys_or_a_word(host: str, capsys: Any) -> None:
    with pytest.raises(UsageError, match="can be reached from other machines") as refused:
        check_reach(host, ServeSettings())
    assert "--insecure" in refused.value.render()
    check_reach(host, ServeSettings(insecure=True))
    assert "warning: " in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_nothing(host: str, capsys: Any) -> None:
    check_reach(host, ServeSettings(cors_origins=("https://app.example",)))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "opened", [{"cors_origins": ("*",)}, {"cors_origins": ("null",)}, {"allowed_hosts": ("*",)}]
)
def test_to_let_any_page_in_needs_keys_or_a_word(opened: dict[str, Any], capsys: Any) -> None:
    with pytest.raises(UsageError, match="any web page"):
        check_reach("127.0.0.1", ServeSettings(**opened))
    check_reach("127.0.0.1", ServeSettings(**opened, insecure=True))
    assert "warning: any web page" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "word"), [(0o600, ""), (0o640, ""), (0o644, "read"), (0o666, "change")]
)
def test_keys_that_everybody_has_are_warned_of(
    mode: int, word: str, tmp_path: Path, capsys: Any
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    keys.chmod(mode)
    warn_of_readable(keys)
    warn_of_readable(None)
    told = capsys.readouterr().err
    assert (f"can {word} the keys" in told) if word else not told
    assert "secret" not in told


@pytest.fixture
def open_files() -> Iterator[Any]:
    """Sets the limits of open files; they are put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft: list[int] = []

    def limit(least: int) -> None:
        soft.append(least)
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_for_the_connections(open_files: Any) -> None:
    open_files(300)
    assert connection_limits(ServeSettings(max_connections=500)).max_connections == 500
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500 + 500 + 128


def test_as_many_connections_as_files_may_be_open(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert connection_limits(ServeSettings()).max_connections == 64
    assert "64 connections at most" in capsys.readouterr().err
    assert connection_limits(ServeSettings(), files_each=2).max_connections == 42
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    with pytest.raises(UsageError, match="too few files"):
        connection_limits(ServeSettings())
