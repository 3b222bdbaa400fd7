"""Conversations in the terminal and through pipes: lines, commands, Markdown."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.replies import DONE, Replies, event
from tests.support import ROOT
from tuneserve.errors import UsageError
from tuneserve.serve.terminal_markdown import as_markdown, whole_blocks
from tuneserve.serve.terminal_session import HELP, read_saved

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def command(address: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "tuneserve", "chat", "--url", address, "--model", "m", *options]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}


def piped(address: str, text: str | bytes, *options: str, cwd: Path | None = None) -> Any:
    data = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run(
        command(address, *options), input=data, capture_output=True, cwd=cwd, env=ENVIRONMENT,
        timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def typed(address: str, *texts: str, options: tuple[str, ...] = (), cwd: Path | None = None) -> str:
    """What a terminal of 80 columns shows, where each text is typed at a prompt."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        command(address, *options), stdin=other, stdout=other, stderr=other, cwd=cwd,
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    os.close(other)
    shown = b""

    def read_until(prompt: bytes, seconds: float = 30) -> None:
        nonlocal shown
        deadline = time.monotonic() + seconds
        start = len(shown)
        while time.monotonic() < deadline:
            ready, _, _ = select.select([main], [], [], 0.1)
            if ready:
                try:
                    block = os.read(main, 65536)
                except OSError:  # the other end is closed
                    return
                shown += block
            if prompt and ESCAPES.sub("", shown[start:].decode("utf-8", "replace")).endswith(
                prompt.decode()
            ):
                return
        raise AssertionError(shown.decode("utf-8", "replace"))

    read_until(b"> ")
    for text in texts:
        os.write(main, text.encode() + b"\n")
        read_until("… ".encode() if text.endswith("\\") else b"> ")
    os.write(main, b"/quit\n")
    process.wait(20)
    os.close(main)
    return shown.decode("utf-8", "replace")


def contents(request: Any) -> list[str]:
    return [message["content"] for message in request["messages"]]


def test_a_pipe_gets_answers_alone(address: str, replies: type[Replies]) -> None:
    replies.body = [event("**Fine**, "), event("[thanks](http://a.b)", "stop"), DONE]
    text = 'How are you?\n"""\ntwo\n  lines\n"""\none\\\ntwo\n'
    code, out, err = piped(address, text)
    assert (code, out, err) == (0, "**Fine**, [thanks](http://a.b)\n" * 3, "")
    asked = [contents(request)[-1] for request in replies.asked]
    assert asked == ["How are you?", "two\n  lines", "one\ntwo"]
    assert contents(replies.asked[1])[:2] == ["How are you?", "**Fine**, [thanks](http://a.b)"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/nothing\n", "no command '/nothing'"), ("/set warmth 3\n", "no setting 'warmth'"),
        ("/set temperature 3\n", "/set temperature: "), ("/set seed 1.5\n", "/set seed: "),
        ("/set top_p\n", "a value is missing"), ("/save\n", "name a file"),
        ("/load gone.json\n", "gone.json: can't be read"), ('"""\nendless\n', "the input ends in"),
        (b"\xff\n", "is no UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_pipe_is_one_error(
    text: str | bytes, told: str, address: str, replies: type[Replies], tmp_path: Path
) -> None:
    code, out, err = piped(address, text, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert not replies.asked


def test_an_answer_that_breaks_off_fails_the_pipe(address: str, replies: type[Replies]) -> None:
    replies.body = [event("Half")]
    code, out, err = piped(address, "a\nb\n")
    assert (code, out) == (1, "Half\n")
    assert "broke off" in err
    assert len(replies.asked) == 1


def test_settings_and_the_system_prompt_are_sent(address: str, replies: type[Replies]) -> None:
    replies.body = [event("x", "stop"), DONE]
    lines = [
        "/set top_k 3", "/set max_tokens 9", "/set temperature default", "a",
        "/system Say \"yes\"", "b", '/system ""', "c", "/system default", "d", "/reset", "e",
    ]  # fmt: skip
    code, _, err = piped(address, "\n".join(lines), "--seed", "4")
    assert code == 0, err
    first = replies.asked[0]
    assert {name: first[name] for name in ("top_k", "max_tokens", "seed")} == {
        "top_k": 3, "max_tokens": 9, "seed": 4,
    }  # fmt: skip
    assert "temperature" not in first
    systems = [[m["content"] for m in one["messages"] if m["role"] == "system"]
               for one in replies.asked]  # fmt: skip
    assert systems == [[], ['Say "yes"'], [""], [], []]
    assert contents(replies.asked[-1]) == ["e"]


def test_a_saved_conversation_goes_on(address: str, replies: type[Replies], tmp_path: Path) -> None:
    replies.body = [event("x", "stop"), DONE]
    first = "/system S\n/set min_p 0.1\nhello\n/save talk.json\nagain\n/save talk.json\n"
    code, _, err = piped(address, first, cwd=tmp_path)
    assert code == 0, err
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert contents(saved) == ["S", "hello", "x", "again", "x"]
    code, out, err = piped(address, "/load talk.json\nand now?\n", cwd=tmp_path)
    assert (code, out) == (0, "x\n"), err
    assert contents(replies.asked[-1]) == ["S", "hello", "x", "again", "x", "and now?"]
    assert replies.asked[-1]["min_p"] == 0.1
    code, _, err = piped(address, "/load talk.json\nmore\n/load talk.json\n", cwd=tmp_path)
    assert code == 2
    assert "the conversation at hand is not saved (6 messages)" in err
    anew = "/load talk.json\n/load talk.json\nmore\n/reset\n/load talk.json\n"
    assert piped(address, anew, cwd=tmp_path)[0] == 0
    code, _, err = piped(address, "/save talk.json\n", cwd=tmp_path)
    assert code == 2
    assert "talk.json: already exists\n  Name another file: /save FILE." in err
    assert "--force" not in err
    assert contents(json.loads((tmp_path / "talk.json").read_text())) == contents(saved)


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "{}", '{"messages": 3}', '{"messages": [3]}', "[" * 100_000,
     '{"messages": [{"role": "tool", "content": "x"}]}',
     '{"messages": [{"role": "user", "content": null}]}',
     '{"messages": [], "options": {"temperature": "hot"}}', '{"messages": [], "options": 3}'],
)  # fmt: skip
def test_a_file_that_is_no_conversation_is_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_saved(path)


def test_a_terminal_shows_markdown(address: str, replies: type[Replies], tmp_path: Path) -> None:
    parts = ["# Title\n\nSome **bold** text", "\nsecond line\n\n- one\n- two\n\n", "```py\nx = 1\n",
             "```\n\n<b>tag</b> &#27;]0;evil&#7; [link](http://a.example) \x1b[2J\n"]  # fmt: skip
    replies.body = [*map(event, parts), event("", "length"), DONE]
    shown = typed(address, "one\\", "two", "/system Be brief.", "/save talk.json", cwd=tmp_path)
    assert contents(replies.asked[0]) == ["one\ntwo"]
    plain = ESCAPES.sub("", shown)
    end = plain[plain.rindex("Title") :]
    for text in ("Some bold text", "second line", "• one", "x = 1", "<b>tag</b> &#27;]0;evil&#7;",
                 "link (http://a.example)", "\\x1b[2J", "as long as it may be"):  # fmt: skip
        assert text in end, text
    assert "**" not in end
    assert "\x1b]0;evil" not in shown
    assert "\x1b[2J" not in shown
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert contents(saved) == ["Be brief.", "one\ntwo", "".join(parts)]


def test_a_terminal_without_markdown_shows_the_text(
    address: str, replies: type[Replies], tmp_path: Path
) -> None:
    replies.body = [event("a **b** \x1b[2J", "stop"), DONE]
    shown = typed(address, "x", "/unknown", options=("--no-markdown",))
    assert "a **b** \\x1b[2J" in shown
    assert "error: no command '/unknown'" in shown


def test_who_sends_the_answers_to_a_file_is_asked_on_stderr(
    address: str, replies: type[Replies], tmp_path: Path
) -> None:
    replies.body = [event("x", "stop"), DONE]
    main, other = pty.openpty()
    os.write(main, b"hello\n/quit\n")
    with (tmp_path / "answers").open("wb") as answers:
        done = subprocess.run(
            command(address), stdin=other, stdout=answers, stderr=subprocess.PIPE,
            env=ENVIRONMENT, start_new_session=True, timeout=60, check=True,
        )  # fmt: skip
    assert (tmp_path / "answers").read_bytes() == b"x\n"
    assert done.stderr.endswith(b"> > ")
    for end in (main, other):
        os.close(end)


class Held(list[str]):
    """Pieces, the last of which waits until it is let go."""

    def __init__(self, pieces: list[str]) -> None:
        super().__init__(pieces)
        self.last_may_go = threading.Event()

    def __iter__(self) -> Iterator[str]:
        for place in range(len(self)):
            if place == len(self) - 1:
                assert self.last_may_go.wait(30)
            yield self[place]


def test_what_is_typed_during_an_answer_waits_for_its_end(
    address: str, replies: type[Replies]
) -> None:
    """Shown at once, its line break would move what is drawn."""
    replies.body = pieces = Held([event("# One\n"), event("two", "stop") + DONE])
    main, other = pty.openpty()
    process = subprocess.Popen(
        command(address, "--prompt", "x", "--markdown"), stdin=other, stdout=other, stderr=other,
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    shown = b""
    while b"One" not in shown:
        shown += os.read(main, 65536)
    os.write(main, b"typed\n")  # the line discipline echoes within this call, or not at all
    pieces.last_may_go.set()
    assert process.wait(20) == 0
    shown += os.read(main, 65536)
    assert b"two" in shown
    assert b"typed" not in shown
    assert termios.tcgetattr(other)[3] & termios.ECHO
    for end in (main, other):
        os.close(end)


def test_help_fits_a_narrow_terminal() -> None:
    assert max(map(len, HELP.splitlines())) <= 50


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("one", ""), ("one\n\n", ""), ("one\n\ntwo", "one\n\n"), ("one\n\n  more", ""),
        ("```\na\n\nb", ""), ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```\n\n"),
        ("- a\n\n  b\n\nc\n\nd", "- a\n\n  b\n\nc\n\n"),
    ],
)  # fmt: skip
def test_blocks_that_are_whole(text: str, whole: str) -> None:
    assert text[: whole_blocks(text)] == whole


@pytest.mark.parametrize("width", [20, 50, 80, 140])
def test_nothing_of_an_answer_is_lost_in_markdown(width: int) -> None:
    from rich.console import Console

    words = ["<think>", "plain", "![alt](http://pic.example)", "[ref]", "&amp;", "a_b_c", "2*3 "]
    text = f"{' '.join(words)}\n\n[ref]: http://ref.example\n\n<div>block</div>\n\nline\nbreak"
    console = Console(width=width, force_terminal=False, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(as_markdown(text))
    shown = captured.get()
    flat = "".join(shown.split())
    for word in ("<think>", "alt", "http://pic.example", "[ref]:", "http://ref.example", "&amp;",
                 "a_b_c", "2*3", "<div>block</div>"):  # fmt: skip
        assert word in flat, (word, shown)
    assert re.search(r"line *\nbreak", shown)
