"""Adapters that come and go while the engine works."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.serve.engine import (
    Completion,
    Engine,
    EngineError,
    SamplingParams,
    UnknownAdapterError,
    adapters,
)
from tuneserve.serve.engine.adapter_directory import AdapterDirectory
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

SETTINGS = ServeSettings(ctx=1024, slots=4, threads=1, max_adapters=2, adapter_memory=0.005)
SHORT = SamplingParams(temperature=0.0, max_tokens=4)
LONG = SamplingParams(temperature=0.0, max_tokens=60, logit_bias={2: -100.0, 0: -100.0})
TEXT = "The capital of France is the city of"


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[Engine]:
    with Engine(demo_gguf, SETTINGS) as engine:
        yield engine


@pytest.fixture(autouse=True)
def emptied(engine: Engine) -> Iterator[None]:
    yield
    for name in engine.adapters.names:
        engine.unload_adapter(name)
    until(lambda: engine.adapters.loaded == 0)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(engine: Engine, adapter: str | None, text: str = TEXT) -> Completion:
    return engine.generate([engine.model.tokenize(text)], SHORT, adapter=adapter)[0]


def test_a_name_loaded_again_with_another_file_finds_no_old_prefix(
    engine: Engine, lora_gguf: Path, other_lora_gguf: Path
) -> None:
    base = ask(engine, None)
    engine.load_adapter("x", lora_gguf)
    first = ask(engine, "x")
    assert ask(engine, "x").cached_tokens > 0
    engine.load_adapter("same", lora_gguf)
    assert ask(engine, "same").cached_tokens > 0
    engine.unload_adapter("same")
    engine.load_adapter("x", other_lora_gguf, replace=True)
    second = ask(engine, "x")
    assert (first.cached_tokens, second.cached_tokens) == (0, 0)
    assert len({base.tokens, first.tokens, second.tokens}) == 3
    engine.unload_adapter("x")
    engine.load_adapter("x", lora_gguf)
    again = ask(engine, "x")
    assert (again.tokens, again.cached_tokens) == (first.tokens, 0)


def test_running_requests_end_with_the_adapter_they_began_with(
    engine: Engine, lora_gguf: Path, other_lora_gguf: Path
) -> None:
    prompt = engine.model.tokenize(TEXT)
    engine.load_adapter("x", lora_gguf)
    whole = engine.submit(prompt, LONG, adapter="x").result(60)
    began = threading.Event()
    running = engine.submit(prompt, LONG, adapter="x", stream=True, on_event=lambda _: began.set())
    assert began.wait(60)
    engine.load_adapter("x", other_lora_gguf, replace=True)
    engine.unload_adapter("x")
    with pytest.raises(UnknownAdapterError, match="no adapter 'x'"):
        engine.submit(prompt, SHORT, adapter="x")
    assert engine.adapters.loaded >= 1
    assert running.result(60).tokens == whole.tokens
    until(lambda: engine.adapters.loaded == 0)
    assert ask(engine, None).finish_reason == "length"


def test_adapters_and_their_memory_are_bounded(
    engine: Engine, lora_gguf: Path, other_lora_gguf: Path, tmp_path: Path, demo_gguf: Path
) -> None:
    engine.load_adapter("one", lora_gguf)
    engine.load_adapter("two", other_lora_gguf)
    third = tmp_path / "third.gguf"
    shutil.copy(lora_gguf, third)
    with third.open("ab") as file:
        file.write(bytes(32))
    with pytest.raises(UsageError, match="2 adapters are loaded already"):
        engine.load_adapter("three", third)
    engine.load_adapter("two", third, replace=True)
    with pytest.raises(UsageError, match=r"5\.1 MiB in all"):
        engine.load_adapter("four", demo_gguf)
    with pytest.raises(UsageError, match="'one' already"):
        engine.load_adapter("one", third)
    with pytest.raises(UsageError, match="no name for an adapter"):
        engine.load_adapter("a b\n", lora_gguf)
    with pytest.raises(TuneserveError, match="no such file"):
        engine.load_adapter("five", tmp_path / "nothing.gguf")


def test_a_closed_engine_loads_nothing(demo_gguf: Path, lora_gguf: Path) -> None:
    with Engine(demo_gguf, SETTINGS) as engine:
        pass
    with pytest.raises(EngineError, match="shutting down"):
        engine.load_adapter("x", lora_gguf)


def served(engine: Engine) -> tuple[str, ...]:
    return engine.adapters.names


def age(path: Path, seconds: float = 60.0) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_directory_is_followed(
    engine: Engine, lora_gguf: Path, other_lora_gguf: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "adapters"
    folder.mkdir()
    directory = AdapterDirectory(engine, folder, reserved="demo")
    shutil.copy(lora_gguf, folder / "old.gguf")
    age(folder / "old.gguf")
    (folder / "note.txt").write_text("no adapter")
    directory.poll()
    assert served(engine) == ("old",)
    # A file that has just been written is looked at twice; one that grows is left alone.
    data = other_lora_gguf.read_bytes()
    new = folder / "new.gguf"
    new.write_bytes(data[:100_000])
    directory.poll()
    new.write_bytes(data[:200_000])
    directory.poll()
    new.write_bytes(data)
    directory.poll()
    assert served(engine) == ("old",)
    assert "warning" not in capsys.readouterr().err
    directory.poll()
    assert served(engine) == ("old", "new")
    key = engine.adapters.key_of("old")
    shutil.copy(other_lora_gguf, folder / "old.gguf")
    age(folder / "old.gguf", 30)
    directory.poll()
    assert engine.adapters.key_of("old") == engine.adapters.key_of("new") != key
    new.unlink()
    directory.poll()
    assert served(engine) == ("old",)
    # What was unloaded otherwise stays so until its file changes.
    engine.unload_adapter("old")
    directory.poll()
    assert served(engine) == ()
    age(folder / "old.gguf", 20)
    directory.poll()
    assert served(engine) == ("old",)


def test_bad_files_of_a_directory_are_told_once(
    engine: Engine, lora_gguf: Path, tmp_path: Path, demo_gguf: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "adapters"
    folder.mkdir()
    bad = {
        "cut": lora_gguf.read_bytes()[:-1000],
        "text": b"hello",
        "header": b"GGUF" + b"\xff" * 40,
        "demo": lora_gguf.read_bytes(),
        "not a name": lora_gguf.read_bytes(),
    }
    for name, data in bad.items():
        (folder / f"{name}.gguf").write_bytes(data)
        age(folder / f"{name}.gguf")
    (folder / "outside.gguf").symlink_to(lora_gguf)
    (folder / "nowhere.gguf").symlink_to(tmp_path / "nothing")
    (folder / "itself.gguf").symlink_to("itself.gguf")
    (folder / "folder.gguf").mkdir()
    age(folder / "folder.gguf")
    shutil.copy(lora_gguf, tmp_path / "kept.gguf")
    directory = AdapterDirectory(engine, folder, reserved="demo")
    for _ in range(3):
        directory.poll()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == len(bad) + 3
    assert all(line.startswith(f"warning: {folder}") for line in warnings)
    assert served(engine) == ()
    (folder / "cut.gguf").write_bytes(lora_gguf.read_bytes())
    age(folder / "cut.gguf")
    directory.poll()
    assert served(engine) == ("cut",)


def test_a_file_without_a_place_gets_one_when_another_has_gone(
    engine: Engine, lora_gguf: Path, other_lora_gguf: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, source in (("a", lora_gguf), ("b", other_lora_gguf), ("c", lora_gguf)):
        shutil.copy(source, tmp_path / f"{name}.gguf")
        if name == "c":
            with (tmp_path / "c.gguf").open("ab") as file:
                file.write(bytes(32))
        age(tmp_path / f"{name}.gguf")
    engine.load_adapter("b", lora_gguf)
    directory = AdapterDirectory(engine, tmp_path, reserved="demo")
    for _ in range(3):
        directory.poll()
    assert served(engine) == ("b", "a", "c")
    assert capsys.readouterr().err.count("another adapter is served as 'b'") == 1
    engine.unload_adapter("b")
    until(lambda: engine.adapters.loaded == 2)
    for _ in range(3):
        directory.poll()
    assert capsys.readouterr().err.count("2 adapters are loaded already") == 1
    (tmp_path / "a.gguf").unlink()

    def polled() -> bool:
        directory.poll()
        return served(engine) == ("c", "b")

    until(polled)


@pytest.mark.parametrize(
    "path", ["../kept.gguf", "/etc/passwd", ".", "link.gguf", "a\0b", "\ud800"]
)
def test_no_path_leaves_the_directory(engine: Engine, tmp_path: Path, path: str) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    (tmp_path / "kept.gguf").write_bytes(b"GGUF")
    (folder / "link.gguf").symlink_to(tmp_path / "kept.gguf")
    (folder / "in.gguf").write_bytes(b"GGUF")
    (folder / "inner.gguf").symlink_to("in.gguf")
    directory = AdapterDirectory(engine, folder, reserved="demo")
    with pytest.raises(UsageError, match="no such file in the adapter directory"):
        directory.inside(Path(path))
    assert directory.inside(Path("inner.gguf")) == folder.resolve() / "in.gguf"
    assert directory.inside(folder / "in.gguf").name == "in.gguf"


def test_an_error_names_the_file_and_not_its_copy(
    engine: Engine, tmp_path: Path, lora_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(lora_gguf.read_bytes()[:1000])
    with pytest.raises(UsageError) as caught:
        engine.load_adapter("x", damaged)
    assert caught.value.where == str(damaged)
    assert "/proc/" not in caught.value.render()
    # What llama.cpp alone refuses.
    monkeypatch.setattr(adapters, "GGUFFile", lambda path: GGUFFile(lora_gguf))
    with pytest.raises(TuneserveError, match="can't load this adapter") as refused:
        engine.load_adapter("x", damaged)
    assert refused.value.where == str(damaged)
    assert "/proc/" not in refused.value.render()
