from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import (
    OURS,
    atomic_path,
    cache_directory,
    check_no_device,
    check_replaceable,
    clear_leftovers,
    errors_named,
    read_json,
    read_text,
    remove,
    set_aside,
    sha256_file,
    write_json,
    write_jsonl,
    write_text,
)


def test_failure_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_directories_are_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    for version in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / version).touch()
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def killed(moment: str, target: Path) -> None:
    """Replace the directory `target` in a process that is killed at a moment of it."""
    code = f"""
import os, signal, sys
from pathlib import Path
import tuneserve.files
from tuneserve.files import atomic_path

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "new").touch()
    if "{moment}" == "before":
        kill()
    tuneserve.files.exchange = lambda *_: False  # as on a file system that can't
    renames = Path.rename
    def rename(self, target):
        if self == temporary:
            kill()
        return renames(self, target)
    Path.rename = rename
"""
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["before", "between"])
def test_a_killed_process_loses_nothing_and_its_leftover_is_cleared(
    moment: str, tmp_path: Path
) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "old").touch()
    killed(moment, target)
    assert len(list(tmp_path.iterdir())) == (2 if moment == "before" else 1)

    def interrupted() -> None:
        with atomic_path(target):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_can_not_be_replaced_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def replace_with_a_full_disk() -> None:
        with atomic_path(target) as temporary:
            temporary.mkdir()

            def fail(path: Path, to: Path) -> Path:
                if path == temporary:
                    raise OSError(errno.ENOSPC, "no space left")
                return rename(path, to)

            monkeypatch.setattr(Path, "rename", fail)
            monkeypatch.setattr("tuneserve.files.exchange", lambda *_: False)

    with pytest.raises(OSError, match="no space left"):
        replace_with_a_full_disk()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_files_beside_the_target_are_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    for name in ("model.old", "model.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").touch()
    with atomic_path(target) as temporary:
        temporary.mkdir()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "model", "model.old", "model.old/thesis.tex", "model.partial", "model.partial/thesis.tex",
    ]  # fmt: skip


def test_a_file_never_replaces_a_directory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").touch()

    def write() -> None:
        with atomic_path(tmp_path / "data") as temporary:
            temporary.touch()

    with pytest.raises(UsageError, match="is a directory"):
        write()
    assert (tmp_path / "data" / "mine.jsonl").exists()


def test_a_directory_never_replaces_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tmp_path / "gone")

    def write() -> None:
        with atomic_path(tmp_path / "model") as temporary:
            temporary.mkdir()

    with pytest.raises(UsageError, match="is no folder") as caught:
        write_text(tmp_path / "model" / "a.txt", "x")
    assert caught.value.where == str(tmp_path / "model")
    with pytest.raises(UsageError, match="is no directory") as caught:
        write()
    assert caught.value.where == str(tmp_path / "model")
    assert (tmp_path / "model").is_symlink()


def test_a_temporary_folder_in_use_is_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with atomic_path(target) as outer:
        outer.write_text("outer")
        with atomic_path(target) as inner:
            inner.write_text("inner")
        assert target.read_text() == "inner"
    assert target.read_text() == "outer"


def test_a_folder_named_like_a_leftover_is_the_users(tmp_path: Path) -> None:
    folder = tmp_path / ".notes.tuneserve-drafts"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    (folder / ".replaced").touch()
    with atomic_path(tmp_path / "a") as temporary:
        temporary.touch()
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == [folder.name, ".replaced", "a", "thesis.tex"]


def test_a_kill_while_a_leftover_is_cleared_leaves_one_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a"
    killed("before", target)

    def stopped(path: Path) -> None:
        remove(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tuneserve.files.remove", stopped)
        with pytest.raises(KeyboardInterrupt):
            clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.glob("*/*")] == [OURS]
    clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["device", "pipe", "stream"])
def test_what_is_no_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    place = Path("/dev/null") if kind == "device" else tmp_path / kind
    if kind == "pipe":
        os.mkfifo(place)
    if kind == "stream":  # as /dev/stdout is
        place.symlink_to("/proc/self/fd/1")
    with pytest.raises(UsageError, match="is not replaced"):
        check_no_device(place)
    if kind != "device":
        with pytest.raises(UsageError, match="is not replaced"):
            write_text(place, "x")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    check_no_device(tmp_path / "link")
    check_no_device(tmp_path / "none")


def test_json_and_hash(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": 1\n}\n'
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}, {"b": "ü"}])
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"a": 1}\n{"b": "ü"}\n'
    data = (tmp_path / "a.jsonl").read_bytes()
    assert sha256_file(tmp_path / "a.jsonl") == hashlib.sha256(data).hexdigest()


def test_a_text_is_read_with_or_without_the_mark_that_windows_writes(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes("\ufeffsecret\r\n".encode())
    assert read_text(path) == "secret\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such recipe"),
        (b"ab\xff", r"can't be read: not UTF-8 \(byte 3\)"),
    ],
)
def test_a_text_that_cant_be_read(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"a\.toml: {told}"):
        read_text(path, "recipe")


def test_a_directory_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read: Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{\n"a": }', r"a\.json:2: not valid JSON"),
        ("[1]", r"a\.json: not a JSON object"),
        ("[" * 200_000, r"not valid JSON"),
    ],
)
def test_json_that_is_no_object(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=told) as caught:
        read_json(path, hint="Make it again.")
    assert caught.value.hint == "Make it again."


def test_a_full_disk_is_named_by_what_was_written(tmp_path: Path) -> None:
    def write_to_a_full_disk(final: Path) -> None:
        with atomic_path(final) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x" * 100_000)

    with pytest.raises(OSError, match="No space left") as caught:
        write_to_a_full_disk(tmp_path / "run.json")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "run.json")
    assert not list(tmp_path.iterdir())


def test_libraries_that_word_a_full_disk_in_their_own_way(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, errors_named(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="unexpected pos"), errors_named(tmp_path):
        raise RuntimeError("unexpected pos 64 vs 0")  # there is room: it is something else
    with pytest.raises(FileNotFoundError) as caught, errors_named(tmp_path):
        Path("nowhere.txt").read_text()
    assert caught.value.filename == "nowhere.txt"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")
@pytest.mark.parametrize(("place", "folder"), [("/proc/xx", "/proc"), ("/proc/xx/y", "/proc/xx")])
def test_a_folder_that_takes_no_files_is_named(place: str, folder: str) -> None:
    with pytest.raises(UsageError, match="nothing can be written") as caught:
        write_text(Path(place), "x")
    assert caught.value.where == folder


def test_numpys_own_words_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "3145728 requested and 1048576 written"
    with pytest.raises(OSError, match="requested") as caught, errors_named(tmp_path):
        raise OSError(said)  # there is room: it is something else
    assert caught.value.errno is None
    monkeypatch.setattr("tuneserve.files._room", lambda _: 0)
    with pytest.raises(OSError, match="No space left") as caught, errors_named(tmp_path):
        raise OSError(said)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TUNESERVE_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(TuneserveError, match="no home directory") as caught:
        cache_directory()
    assert "Set HOME" in caught.value.hint


def test_what_a_command_did_not_make_is_named_before_it_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    check_replaceable(folder, (), what="adapter")
    folder.mkdir()
    for name in ("adapter_config.json", "tokenizer.json"):
        (folder / name).touch()
    patterns = ("adapter_*", "tokenizer*")
    check_replaceable(folder, patterns, what="adapter")
    (folder / "notes.txt").touch()
    with pytest.raises(UsageError, match="would be deleted with it") as caught:
        check_replaceable(folder, patterns, what="adapter")
    assert caught.value.problems == ["notes.txt"]
    (folder / "notes.txt").unlink()
    (folder / "tokenizer_backup").mkdir()  # the name of a file, but a folder of the user's
    with pytest.raises(UsageError, match="would be deleted with it") as caught:
        check_replaceable(folder, patterns, what="adapter")
    assert caught.value.problems == ["tokenizer_backup"]
    check_replaceable(folder, (*patterns, "tokenizer_*/"), what="adapter")
    (tmp_path / "link").symlink_to(folder)  # the link is replaced, not what it names
    check_replaceable(tmp_path / "link", patterns, what="adapter")


def test_a_link_to_a_directory_is_replaced_alone(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "thesis.tex").touch()
    (tmp_path / "data").symlink_to(kept)
    with atomic_path(tmp_path / "data") as temporary:
        temporary.mkdir()
    assert (kept / "thesis.tex").exists()
    assert not (tmp_path / "data").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "kept"]


def test_what_a_killed_process_left_is_no_foreign_file(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in (".losses.json.tuneserve-abcd1234", ".losses.json.tuneserve-abcd5678"):
        (folder / name).mkdir(parents=True)
    (folder / ".losses.json.tuneserve-abcd1234" / OURS).touch()
    (folder / "train.jsonl").touch()
    check_replaceable(folder, ("*.jsonl",), what="training")
    assert [path.name for path in folder.iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize("kind", ["pipe", "device", "stream", "nul", "long"])
def test_a_text_with_a_bound_is_a_file(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "x"
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "device":
            place.symlink_to("/dev/zero")
        case "stream":
            place = Path("/dev/stdin")
        case "nul":
            place = tmp_path / "x\0"
        case "long":
            place.write_text("x" * 11)
    with pytest.raises(UsageError, match=r"no file but|no name of a file|too large"):
        read_text(place, most=10)
    (tmp_path / "good").write_text("x" * 10)
    assert read_text(tmp_path / "good", most=10) == "x" * 10
    with pytest.raises(UsageError, match="no such text"):
        read_text(tmp_path / "none", "text", most=10)


def test_what_is_set_aside_takes_no_name_that_is_taken(tmp_path: Path) -> None:
    place = tmp_path / "note"
    (tmp_path / "note.old-2").write_text("second")
    (tmp_path / "note.old-1").symlink_to("nowhere")
    place.write_text("third")
    assert set_aside(place, "old") == tmp_path / "note.old-3"
    assert not place.exists()
    names = {path.name: path.is_symlink() or path.read_text() for path in tmp_path.iterdir()}
    assert names == {"note.old-1": True, "note.old-2": "second", "note.old-3": "third"}
