"""Prefixes on disk: files, their bound, and what a restarted engine finds."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tuneserve.errors import UsageError
from tuneserve.files import sha256_file
from tuneserve.serve.engine import Completion, Engine, SamplingParams
from tuneserve.serve.engine.activation import Activated
from tuneserve.serve.engine.prefix_disk import _LOOK_AGAIN, SUFFIX, DiskPrefixes
from tuneserve.serve.engine.prefix_files import (
    DamagedPrefixError,
    file_bytes,
    read_prefix,
    read_tokens,
    write_prefix,
)
from tuneserve.serve.engine.prefix_identity import context_identity, folder_name
from tuneserve.serve.engine.prefixes import CachedPrefix, Tokens
from tuneserve.settings import ServeSettings


def folder(adapter: str | None) -> str:
    return adapter or "base"


def tokens(first: int, count: int = 100) -> Tokens:
    return np.arange(first, first + count, dtype=np.int32)


def prefix(first: int, count: int = 100, adapter: str | None = None) -> CachedPrefix:
    data = np.random.default_rng(first).integers(0, 256, 1000).astype(np.uint8)
    return CachedPrefix(adapter, tokens(first, count), data)


SIZE = file_bytes(prefix(0).tokens, prefix(0).data)


@contextmanager
def opened(root: Path, limit: int = 100 * SIZE) -> Iterator[DiskPrefixes]:
    disk = DiskPrefixes(root, limit, folder)
    try:
        yield disk
    finally:
        disk.last()
        disk.close()


def keep(root: Path, *prefixes: CachedPrefix, limit: int = 100 * SIZE) -> None:
    for one in prefixes:  # One server each, so that they are written in this order.
        with opened(root, limit) as disk:
            disk.save(one)


def files(root: Path) -> list[Path]:
    return sorted(root.glob(f"*/*{SUFFIX}"))


class TestFiles:
    def test_what_was_written_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.prefix"
        write_prefix(path, prefix(5))
        found = read_prefix(path, None)
        assert (found.tokens == tokens(5)).all()
        assert (read_tokens(path, None).tokens == tokens(5)).all()
        assert (found.data == prefix(5).data).all()
        assert read_prefix(path, "loud").adapter == "loud"
        assert path.stat().st_size == SIZE
        assert path.stat().st_mode & 0o077 == 0, "prompts are nobody else's business"

    @pytest.mark.parametrize("place", [0, 9, 13, 17, 25, 60, 400, SIZE - 1])
    def test_a_flipped_bit_anywhere_is_refused(self, tmp_path: Path, place: int) -> None:
        path = tmp_path / "a.prefix"
        write_prefix(path, prefix(5))
        damaged = bytearray(path.read_bytes())
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DamagedPrefixError):
            read_prefix(path, None)

    @pytest.mark.parametrize("size", [0, 10, SIZE - 1, SIZE + 1])
    def test_a_file_of_another_length_is_refused(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "a.prefix"
        write_prefix(path, prefix(5))
        path.write_bytes((path.read_bytes() + b"x")[:size])
        for read in (read_prefix, read_tokens):
            with pytest.raises(DamagedPrefixError):
                read(path, None)


class TestDisk:
    def test_the_longest_beginning_of_the_same_adapter_is_found(self, tmp_path: Path) -> None:
        keep(tmp_path, prefix(0), prefix(0, 200, "lora"), prefix(1000))
        with opened(tmp_path) as disk:
            found = disk.find(None, np.append(tokens(0, 80), 7).astype(np.int32), 64)
            assert found is not None
            assert (found.tokens == tokens(0)).all()
            assert (found.data == prefix(0).data).all()
            assert disk.find(None, tokens(0, 80), 81) is None
            assert disk.find(None, tokens(5000), 1) is None
            other = disk.find("lora", tokens(0, 150), 64)
            assert other is not None
            assert len(other.tokens) == 200
            assert disk.find("another", tokens(0), 64) is None

    def test_a_longer_one_takes_the_place_of_its_beginning(self, tmp_path: Path) -> None:
        keep(tmp_path, prefix(0, 100), prefix(0, 150), prefix(0, 120), prefix(50))
        with opened(tmp_path) as disk:
            found = disk.find(None, tokens(0, 150), 64)
            assert found is not None
            assert len(found.tokens) == 150
        assert len(files(tmp_path)) == 2

    def test_a_short_one_stays_beside_one_that_is_too_long_to_be_read_for_it(
        self, tmp_path: Path
    ) -> None:
        keep(tmp_path, prefix(0, 40))
        (short,) = files(tmp_path)
        written = short.stat().st_mtime_ns
        keep(tmp_path, prefix(0, 400), prefix(0, 40))
        assert len(files(tmp_path)) == 2
        assert short.stat().st_mtime_ns == written

    def test_what_the_base_computed_of_an_activated_adapters_is_the_bases(
        self, tmp_path: Path
    ) -> None:
        mine = Activated("ab" * 32, 70)
        keep(tmp_path, replace(prefix(0), adapter=mine), replace(prefix(0), adapter="cd" * 32))
        assert {path.parent.name for path in files(tmp_path)} == {"base", "cd" * 32}
        with opened(tmp_path) as disk:
            assert disk.find(None, tokens(0), 71) is None
            found = disk.find(None, tokens(0), 64)
            assert found is not None
            assert found.adapter == mine
            assert (found.data == prefix(0).data).all()
            assert disk.find(mine, tokens(0), 100) is not None
            assert disk.find(Activated("ab" * 32, 50), tokens(0), 51) is None
            assert disk.find(mine.key, tokens(0), 1) is None
            disk.save(prefix(0))
        assert len(files(tmp_path)) == 3

    def test_what_was_used_longest_ago_goes_first_whoever_wrote_it(self, tmp_path: Path) -> None:
        names = [prefix(1000 * number, adapter="lora") for number in range(3)]
        keep(tmp_path, *names)
        for age, one in enumerate(sorted(files(tmp_path), key=lambda path: path.stat().st_mtime)):
            os.utime(one, (age + 1, age + 1))
        with opened(tmp_path, 3 * SIZE) as disk:
            assert disk.find("lora", names[0].tokens, 64) is not None  # Used: the newest now.
            disk.save(prefix(9000))
        assert len(files(tmp_path)) == 3
        with opened(tmp_path) as disk:
            kept = [disk.find("lora", one.tokens, 64) is not None for one in names]
        assert kept == [True, False, True]

    def test_one_that_is_larger_than_all_space_is_not_written(self, tmp_path: Path) -> None:
        keep(tmp_path, prefix(0), limit=SIZE - 1)
        assert files(tmp_path) == []

    @pytest.mark.parametrize("place", [296, SIZE - 1])
    def test_a_damaged_file_is_dropped_with_a_warning(
        self, tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        keep(tmp_path, prefix(0))
        (path,) = files(tmp_path)
        damaged = bytearray(path.read_bytes())
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with opened(tmp_path) as disk, caplog.at_level(logging.WARNING):
            assert disk.find(None, tokens(0), 1) is None
        assert "checksum is wrong" in caplog.text
        assert files(tmp_path) == []

    def test_a_cut_file_is_dropped_when_it_is_found(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        keep(tmp_path, prefix(0))
        (path,) = files(tmp_path)
        path.write_bytes(path.read_bytes()[:-1])
        with opened(tmp_path) as disk, caplog.at_level(logging.WARNING):
            assert disk.find(None, tokens(0), 64) is None
        assert "not a whole prefix" in caplog.text
        assert files(tmp_path) == []

    def test_two_servers_share_a_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("tuneserve.serve.engine.prefix_disk._LOOK_AGAIN", 0.0)
        with opened(tmp_path) as one:
            assert one.find(None, tokens(0), 64) is None
            keep(tmp_path, prefix(0))
            assert one.find(None, tokens(0), 64) is not None
            monkeypatch.setattr("tuneserve.serve.engine.prefix_disk._LOOK_AGAIN", 1e9)
            files(tmp_path)[0].unlink()
            assert one.find(None, tokens(0), 64) is None
            monkeypatch.setattr("tuneserve.serve.engine.prefix_disk._LOOK_AGAIN", 0.0)
            one.save(prefix(0))
        assert len(files(tmp_path)) == 1
        assert caplog.text == ""

    def test_a_full_disk_is_a_warning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(path: Path, *_: object) -> None:
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr("tuneserve.serve.engine.prefix_disk.write_prefix", full)
        with caplog.at_level(logging.WARNING):
            keep(tmp_path, prefix(0))
        assert "No space left on device" in caplog.text

    def test_a_folder_into_which_others_write_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        with pytest.raises(UsageError, match="others can write"):
            DiskPrefixes(tmp_path, SIZE, folder)
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="no prefixes can be kept there"):
            DiskPrefixes(tmp_path / "file", SIZE, folder)


# -- on the real model ----------------------------------------------------------------------------

TEXT = "The harbour was quiet that morning, and the watchmaker counted his letters. " * 5
ONE = SamplingParams(temperature=0.0, max_tokens=8, logprobs=5)

Ask = Callable[..., Completion]


@pytest.fixture
def ask(demo_gguf: Path, tmp_path: Path) -> Ask:
    """Start a server, ask it what comes after TEXT, end it."""

    def asked(more: str = "", **options: object) -> Completion:
        settings = {
            "ctx": 1024, "slots": 2, "threads": 1, "prefix_disk": "100M", "speculate": "off",
            "prefix_directory": tmp_path / "prefixes", **options,
        }  # fmt: skip
        with Engine(demo_gguf, ServeSettings(**settings)) as engine:
            return engine.generate([engine.model.tokenize(TEXT + more)], ONE)[0]

    return asked


@pytest.mark.slow
class TestRealModel:
    def test_a_restarted_server_finds_what_was_computed(self, ask: Ask, tmp_path: Path) -> None:
        first = ask()
        again = ask()
        assert first.cached_tokens == 0
        assert again.cached_tokens == again.prompt_tokens - 1
        assert again.tokens == first.tokens
        for one, other in zip(first.logprobs, again.logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=0.5)
        longer = ask("It was a cold day.")
        assert longer.cached_tokens >= first.prompt_tokens - 2
        assert ask(prefix_disk="0").cached_tokens == 0
        for path in files(tmp_path / "prefixes"):
            damaged = bytearray(path.read_bytes())
            damaged[len(damaged) // 2] ^= 16
            path.write_bytes(damaged)
        anew = ask()
        assert (anew.cached_tokens, anew.tokens) == (0, first.tokens)

    def test_without_ram_it_is_what_was_kept_at_the_end(self, ask: Ask) -> None:
        assert ask(prefix_ram=0.0).cached_tokens == 0
        again = ask(prefix_ram=0.0)
        assert again.cached_tokens == again.prompt_tokens - 1

    def test_another_cache_type_or_attention_is_not_used(self, ask: Ask) -> None:
        assert ask(cache_type_k="f16", cache_type_v="f16").cached_tokens == 0
        assert ask(cache_type_k="f16").cached_tokens == 0
        off = {"cache_type_k": "f16", "cache_type_v": "f16", "flash_attention": False}
        assert ask(**off).cached_tokens == 0
        assert ask(**off).cached_tokens > 0
        assert ask(**off, ctx=2048).cached_tokens > 0, "the context may be of any size"

    def test_what_ram_has_no_room_for_is_found_on_disk(
        self, demo_gguf: Path, tmp_path: Path
    ) -> None:
        root = tmp_path / "new" / "prefixes"
        settings = ServeSettings(
            ctx=512, slots=2, threads=1, prefix_disk="100M", prefix_directory=root,
            prefix_ram=0.0001, prefix_share=0.0,
        )  # fmt: skip
        with Engine(demo_gguf, settings) as engine:
            ids = engine.model.tokenize(TEXT)
            first = engine.generate([ids], ONE)[0]
            engine.generate([engine.model.tokenize("Once upon a time")], ONE)
            deadline = time.monotonic() + 10
            while not files(root) and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(_LOOK_AGAIN)
            again = engine.generate([ids], ONE)[0]
        assert first.cached_tokens == 0
        assert again.cached_tokens == len(ids) - 1
        assert again.tokens == first.tokens

    def test_every_change_of_a_file_changes_the_folder(
        self, demo_gguf: Path, tmp_path: Path
    ) -> None:
        from tuneserve.llama import LlamaModel

        copy = tmp_path / "model.gguf"
        shutil.copy2(demo_gguf, copy)
        with LlamaModel(copy, gpu_layers=0) as model:

            def name(adapter: str | None = None, **options: object) -> str:
                settings = ServeSettings(**options)
                return folder_name(context_identity(model, settings, cells=1024), adapter)

            found = {name(), name("a"), name(cache_type_v="f16")}
            assert len(found) == 3
            assert name() == name(slots=3)
            assert name("b") not in found
            status = copy.stat()
            with copy.open("r+b") as file:
                file.seek(status.st_size - 100)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
            changed = name()
            assert changed not in found
            os.utime(copy)
            assert name() not in {*found, changed}
        assert sha256_file(demo_gguf) != sha256_file(copy)
