"""Hosts and origins as headers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.hosts import Host, HostPattern, Origin, host_of, origin_of


@pytest.mark.parametrize(
    ("written", "name", "port", "loopback"),
    [
        ("localhost", "localhost", None, True),
        ("LocalHost:8080", "localhost", 8080, True),
        ("localhost.:8080", "localhost", 8080, True),
        ("localhost:", "localhost", None, True),
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("127.255.1.2", "127.255.1.2", None, True),
        ("[::1]:8080", "::1", 8080, True),
        ("[0:0:0:0:0:0:0:1]", "::1", None, True),
        ("[::ffff:127.0.0.1]", "127.0.0.1", None, True),
        ("[FE80::1%25eth0]:1", "fe80::1", 1, False),
        ("0.0.0.0", "0.0.0.0", None, False),
        ("8.8.8.8", "8.8.8.8", None, False),
        ("localhost.evil.example", "localhost.evil.example", None, False),
        ("127.0.0.1.evil.example", "127.0.0.1.evil.example", None, False),
        ("0x7f.1", "0x7f.1", None, False),
        ("2130706433", "2130706433", None, False),
        ("my_box", "my_box", None, False),
    ],
)
def test_a_host_is_read(written: str, name: str, port: int | None, loopback: bool) -> None:
    host = Host.parse(written)
    assert (host.name, host.port, host.is_loopback) == (name, port, loopback)


@pytest.mark.parametrize(
    "written",
    ["", " ", "a b", "user@localhost", "localhost,evil.example", "localhost:x", "localhost:99999",
     "localhost:1:2", "::1", "[::1", "[localhost]", "[127.0.0.1]", "..", ".", "a..b", "localhost..",
     "localhost/", "höst", "lo%63alhost", "http://localhost", "localhost\n", "a" * 255],
)  # fmt: skip
def test_what_names_no_host_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"host|brackets|port|empty"):
        Host.parse(written)
    assert host_of(written.encode()) is None


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_refused(text: str) -> None:
    try:
        host = Host.parse(text)
    except ValueError:
        return
    assert host.name == host.name.lower()
    assert set("@/ \n[]").isdisjoint(host.name)


def test_origins() -> None:
    assert Origin.parse("https://app.example:8443").host == Host("app.example", 8443)
    assert Origin.parse("tauri://localhost").scheme == "tauri"
    for text in ("null", "", "app.example", "https://app.example/", "https://", "HTTPS://a", "*"):
        assert origin_of(text.encode()) is None


@pytest.mark.parametrize(
    ("pattern", "host", "allowed"),
    [
        ("llm.example", "llm.example", True),
        ("llm.example", "LLM.example.:99", True),
        ("llm.example:99", "llm.example:99", True),
        ("llm.example:99", "llm.example", False),
        ("llm.example", "x.llm.example", False),
        ("*.example", "x.example", True),
        ("*.example", "a.x.example:5", True),
        ("*.example", "example", False),
        ("*.example", "evilexample", False),
        ("*", "anything:1", True),
        ("10.0.0.1", "10.0.0.1:8080", True),
    ],
)
def test_allowed_hosts(pattern: str, host: str, allowed: bool) -> None:
    assert HostPattern.parse(pattern).allows(Host.parse(host)) is allowed


@pytest.mark.parametrize(
    ("pattern", "origin", "own"),
    [
        ("llm.example", "https://llm.example", True),
        ("llm.example", "http://llm.example", True),
        ("llm.example", "https://llm.example:3000", False),
        ("llm.example:8443", "https://llm.example:8443", True),
        ("*.example", "https://llm.example", True),
        ("*", "https://llm.example", False),
        ("llm.example", "app://llm.example", False),
    ],
)
def test_origins_of_allowed_hosts(pattern: str, origin: str, own: bool) -> None:
    assert HostPattern.parse(pattern).is_origin(Origin.parse(origin)) is own
