"""Folders, patterns, packed files: what is read, on which side, and what is told of the rest."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tuneserve.errors import UsageError
from tuneserve.finetune.data import containers
from tuneserve.finetune.data.data_files import find_data
from tuneserve.finetune.data.hub import is_here
from tuneserve.finetune.data.prepare import data_hash, data_inputs, prepare_examples
from tuneserve.finetune.data.reading import Read, read_examples
from tuneserve.settings import DataSettings


def lines(*questions: str, **more: Any) -> str:
    rows = ({"instruction": question, "output": "x", **more} for question in questions)
    return "".join(json.dumps(row) + "\n" for row in rows)


def put(folder: Path, **files: str) -> Path:
    """Files by their names, in which '__' is a folder and '_' the dot of the ending."""
    for name, text in files.items():
        path = folder / "/".join(".".join(part.rsplit("_", 1)) for part in name.split("__"))
        write(path, text)
    return folder


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def asked(read: Read) -> list[str]:
    return [example.messages[0]["content"] for example in read.examples]


def notes_of(read: Read) -> list[str]:
    return [note.text for note in read.notes]


def test_a_folder_is_read_to_the_bottom_and_the_rest_is_told(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/deep/z.jsonl", "a/y.jsonl.gz"):
        text = lines(name).encode()
        write(tmp_path / name, gzip.compress(text) if name.endswith("gz") else text)
    for name in (
        ".cache/x.jsonl", "__MACOSX/x.jsonl", "checkpoint-12/x.jsonl", ".ipynb_checkpoints/x.jsonl",
        "README.md", "LICENSE.txt", "a/readme_zh.txt", "dataset_infos.json", "a/metadata.json",
        "sheet.xlsx", "LICENSE", "notes.txt",
    ):  # fmt: skip
        write(tmp_path / name, "not an example")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    read = read_examples(tmp_path)
    assert asked(read) == ["a/deep/z.jsonl", "a/y.jsonl.gz", "b.jsonl"]
    assert sorted(notes_of(read)) == [
        "not read, about the data: LICENSE.txt, README.md, a/metadata.json, a/readme_zh.txt, "
        "dataset_infos.json",
        "not read, hidden or left by a tool: .cache, .ipynb_checkpoints, __MACOSX, checkpoint-12",
        "not read, no kind of file that is read here: LICENSE, sheet.xlsx",
        "not read, text beside files of records (name it in `more` to train on it): notes.txt",
    ]


def test_a_folder_of_text_is_read_without_its_licence(tmp_path: Path) -> None:
    write(tmp_path / "zh.txt", "你好。\n\n再见。\n")
    write(tmp_path / "ru" / "ru.md", "Привет.\n")
    write(tmp_path / "LICENSE-2.0.txt", "MIT")
    read = read_examples(tmp_path)
    assert asked(read) == ["Привет.", "你好。", "再见。"]
    assert [e.where.rpartition("/")[2] for e in read.examples] == [
        "ru.md:1",
        "zh.txt:1",
        "zh.txt:3",
    ]
    assert notes_of(read) == ["not read, about the data: LICENSE-2.0.txt"]
    (tmp_path / "zh.txt").unlink()
    (tmp_path / "ru" / "ru.md").unlink()
    with pytest.raises(UsageError, match="no data file in it") as caught:
        read_examples(tmp_path)
    assert "about the data: LICENSE-2.0.txt" in caught.value.render()


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    write(tmp_path / "set.jsonl" / "tràin set.jsonl", lines("a"))
    assert asked(read_examples(tmp_path / "set.jsonl")) == ["a"]


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (["train.jsonl", "test.jsonl", "dev.jsonl"], ["train", "test", "eval"]),
        (["train-00000-of-00001.jsonl", "validation-00000-of-00001.jsonl"], ["train", "eval"]),
        (["data/train/a.jsonl", "data/test/a.jsonl", "data/other.jsonl"], ["train", "test", None]),
        (["my_test.jsonl", "rest.jsonl"], ["test", None]),
        (["contest.jsonl", "trainer.jsonl", "train_test.jsonl"], [None, None, None]),
        (["train.jsonl"], [None]),
        (["test.jsonl"], [None]),
        (["train.jsonl", "more.jsonl"], [None, None]),
    ],
)
def test_files_named_after_a_side_of_the_split_stay_on_it(
    tmp_path: Path, names: list[str], sides: list[str | None]
) -> None:
    for name in names:
        write(tmp_path / name, lines(name))
    files = [tmp_path / name for name in names]
    ways: list[tuple[Path, tuple[str, ...]]] = [(tmp_path, ())]
    if files[0].parent == tmp_path:  # a file that is named itself is known by its own name
        ways.append((files[0], tuple(map(str, files[1:]))))
    for file, more in ways:
        settings = DataSettings(file=file, more=more, eval_fraction=0, test_fraction=0)
        parts = prepare_examples(settings).parts().values()
        found = {e.messages[0]["content"]: e.side for part in parts for e in part}
        assert [found[name] for name in names] == sides


def test_lists_named_after_sides_are_kept_apart_as_well(tmp_path: Path) -> None:
    rows = [json.loads(lines(name)) for name in "abc"]
    path = write(tmp_path / "d.json", json.dumps({"train": rows[:2], "test": rows[2:]}))
    settings = DataSettings(file=path, eval_fraction=0, test_fraction=0)
    prepared = prepare_examples(settings)
    texts = [note.text for note in prepared.notes]
    assert texts == [
        f"stays on the side {side!r}, as its file or record says" for side in ("train", "test")
    ]


def test_patterns_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a1", "a2", "sub/a3"):
        write(tmp_path / f"{name}.jsonl", lines(name))
    write(tmp_path / "own*2", "")
    write(tmp_path / "README.md", "no")
    write(tmp_path / "b.csv", "instruction,output\nb,x\n")
    monkeypatch.setenv("HOME", str(tmp_path))

    def weights(file: str, *more: str) -> dict[str, float]:
        settings = DataSettings(file=Path(file), more=more, eval_fraction=0, test_fraction=0)
        assert all(map(is_here, data_inputs(settings)))
        split = prepare_examples(settings).split
        return {e.messages[0]["content"]: e.weight for e in split.train}

    assert weights(f"{tmp_path}/*.jsonl") == {"a1": 1, "a2": 1}
    assert weights(f"{tmp_path}/**/*.jsonl") == {"a1": 1, "a2": 1, "sub/a3": 1}
    assert weights(f"{tmp_path}/b.csv", f"{tmp_path}/*.jsonl*2") == {"b": 1, "a1": 2, "a2": 2}
    assert weights(f"{tmp_path}/b.csv", f"{tmp_path}/a*.jsonl") == {"b": 1, "a1": 1, "a2": 1}
    assert weights("~/b.csv", "~/sub*0.5", "~/a[12].jsonl*3") == {
        "b": 1, "sub/a3": 0.5, "a1": 3, "a2": 3,
    }  # fmt: skip
    read = read_examples(tmp_path / "*")
    assert sorted(asked(read)) == ["a1", "a2", "b", "sub/a3"]
    missing = DataSettings(file=tmp_path / "c*.jsonl")
    assert not any(map(is_here, data_inputs(missing)))
    with pytest.raises(UsageError, match="no file matches this pattern"):
        prepare_examples(missing)
    write(tmp_path / "c*.jsonl", lines("literal"))
    assert asked(read_examples(tmp_path / "c*.jsonl")) == ["literal"]


@pytest.mark.parametrize(
    "name", ["d.jsonl.gz", "d.jsonl.bz2", "d.jsonl.xz", "d.jsonl.zst", "d.jsonl"]
)
def test_packed_files_are_told_by_their_first_bytes(tmp_path: Path, name: str) -> None:
    path, text = tmp_path / name, lines("a", "b").encode()
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": _zstandard,
    }
    path.write_bytes(pack.get(path.suffix, gzip.compress)(text))
    read = read_examples(path)
    assert [example.where for example in read.examples] == [f"{path}:1", f"{path}:2"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert str(path) in caught.value.render()


def _zstandard(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def test_other_tables_may_be_packed_too(tmp_path: Path) -> None:
    write(tmp_path / "a.csv.gz", gzip.compress(b"instruction,output\na,b\n"))
    write(tmp_path / "b.txt.gz", gzip.compress(b"Hi.\n"))
    write(tmp_path / "c.json.gz", gzip.compress(f"[{lines('c')}]".encode()))
    assert asked(read_examples(tmp_path / "a.csv.gz")) == ["a"]
    assert asked(read_examples(tmp_path / "b.txt.gz")) == ["Hi."]
    assert asked(read_examples(tmp_path / "c.json.gz")) == ["c"]


def test_what_can_not_be_unpacked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content, reason in (
        ("a.jsonl", b"PK\x03\x04", "a zip file"),
        ("b.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        ("c.zip", b"PK\x03\x04", "Unpack it"),
        ("d.xlsx", b"PK\x03\x04", "Save it as CSV"),
        ("e.tar.gz", b"", "Unpack it"),
    ):
        with pytest.raises(UsageError) as caught:
            read_examples(write(tmp_path / name, content))
        assert reason in caught.value.render()
    monkeypatch.setattr(containers, "_SMALLEST_TRAP", 1000)
    with pytest.raises(UsageError, match="unpacks to more than"):
        read_examples(write(tmp_path / "f.jsonl.gz", gzip.compress(b" " * 1_000_000)))


def test_files_that_number_their_records_alike_lose_none(tmp_path: Path) -> None:
    for name in ("a", "b", "sub/c"):
        rows = [lines(f"{name}{number}", id=number) for number in range(1, 51)]
        write(tmp_path / f"{name}.jsonl", "".join(rows))
    read = read_examples(tmp_path)
    ids = [example.id for example in read.examples]
    assert len(set(ids)) == 150
    assert {"7", "b.jsonl:7", "sub/c.jsonl:7"} <= set(ids)
    assert ids == [example.id for example in read_examples(tmp_path).examples]
    (note,) = read.notes
    assert note.count == 100
    assert note.first == f"{tmp_path / 'b.jsonl'}:1"
    settings = DataSettings(file=tmp_path, more=(str(tmp_path / "a.jsonl"),))
    settings = settings.model_copy(update={"eval_fraction": 0, "test_fraction": 0})
    train = prepare_examples(settings).split.train
    assert len({example.id for example in train}) == len(train) == 150


def test_the_hash_covers_what_is_read(tmp_path: Path) -> None:
    put(tmp_path, a_jsonl=lines("a"), sub__b_jsonl=lines("b"), README_md="x")
    folder, pattern = (DataSettings(file=tmp_path / name) for name in ("", "*/*.jsonl"))
    before = data_hash(folder), data_hash(pattern)
    write(tmp_path / "README.md", "y")
    assert (data_hash(folder), data_hash(pattern)) == before
    write(tmp_path / "sub" / "b.jsonl", lines("c"))
    assert data_hash(folder) != before[0]
    assert data_hash(pattern) != before[1]
    before = data_hash(folder), data_hash(pattern)
    (tmp_path / "sub" / "b.jsonl").rename(tmp_path / "sub" / "b_test.jsonl")
    assert data_hash(folder) != before[0]


INFO = {
    "plain": {"file_name": "plain.json"},
    "named": {
        "file_name": "named.json",
        "columns": {"prompt": "q", "query": "more", "response": "a", "system": "sys"},
    },
    "chats": {
        "file_name": "chats.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "dialog"},
        "tags": {
            "role_tag": "who", "content_tag": "what", "user_tag": "U", "assistant_tag": "A",
            "system_tag": "S",
        },
    },
    "openai": {
        "file_name": "openai.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role", "content_tag": "content", "user_tag": "user",
            "assistant_tag": "assistant",
        },
    },
    "some": {"file_name": "some.jsonl", "num_samples": 2},
    "held": {"file_name": "held.json", "split": "test"},
    "ranked": {"file_name": "ranked.json", "ranking": True},
    "remote": {"hf_hub_url": "a/b"},
    "gone": {"file_name": "gone.json"},
}  # fmt: skip


def test_the_data_sets_of_a_dataset_info_are_read_as_it_says(tmp_path: Path) -> None:
    turns = [{"who": "S", "what": "s"}, {"who": "U", "what": "chat"}, {"who": "A", "what": "x"}]
    messages = [{"role": "user", "content": "openai"}, {"role": "assistant", "content": "x"}]
    named = {"q": "named", "more": "and", "a": "x", "sys": "s", "text": "unread"}
    put(
        tmp_path, dataset_info_json=json.dumps(INFO), plain_json=f"[{lines('plain')}]",
        named_json=json.dumps([named]), chats_jsonl=json.dumps({"dialog": turns}),
        openai_json=json.dumps([{"messages": messages}]), some_jsonl=lines("s1", "s2", "s3"),
        held_json=f"[{lines('held')}]", ranked_json="[]", unlisted_jsonl=lines("unlisted"),
    )  # fmt: skip
    for path in (tmp_path, tmp_path / "dataset_info.json"):
        read = read_examples(path)
        found = {
            tuple(m["content"] for m in example.messages): example.side for example in read.examples
        }
        assert found == {
            ("plain", "x"): None, ("s", "named\n\nand", "x"): None, ("s", "chat", "x"): None,
            ("openai", "x"): None, ("s1", "x"): None, ("s2", "x"): None, ("held", "x"): "test",
        }  # fmt: skip
        told = set(notes_of(read))
        assert told >= {
            "the data set 'ranked' of dataset_info.json is not read: it ranks answers (ranking), "
            "which is not trained here",
            "the data set 'remote' of dataset_info.json is not read: it lies elsewhere "
            "(hf_hub_url)",
            "the data set 'gone' of dataset_info.json is not read: no data file 'gone.json'",
            "not read: more records than num_samples says",
        }
    assert "not read, dataset_info.json does not list it: unlisted.jsonl" in set(
        notes_of(read_examples(tmp_path))
    )


def test_a_role_that_a_dataset_info_does_not_name_is_refused(tmp_path: Path) -> None:
    turns = [{"who": "U", "what": "a"}, {"who": "bot", "what": "x"}]
    put(tmp_path, dataset_info_json=json.dumps(INFO), chats_jsonl=json.dumps({"dialog": turns}))
    with pytest.raises(UsageError, match=r"dataset_info\.json names no role 'bot'") as caught:
        read_examples(tmp_path)
    assert caught.value.where == f"{tmp_path / 'chats.jsonl'}:1"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not usable JSON"),
        ('{"a": {"file_name": 3}}', "'file_name' must be text"),
        ('{"a": {"file_name": "x", "columns": [1]}}', "'columns' must be an object of names"),
        ('{"a": {"file_name": "x"}, "b": 1}', "must be an object"),
    ],
)
def test_a_dataset_info_that_can_not_be_understood_is_refused(
    tmp_path: Path, content: str, reason: str
) -> None:
    put(tmp_path, dataset_info_json=content, x_jsonl=lines("a"))
    with pytest.raises(UsageError, match=reason):
        read_examples(tmp_path)


def test_a_record_may_name_its_side(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    rows = [
        {"instruction": f"Name {n}", "output": str(n), "split": side}
        for n, side in enumerate(["train", "train", "validation", "test", "hard"])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = read_examples(path)
    assert [example.side for example in read.examples] == ["train", "train", "eval", "test", None]
    assert [note.text for note in read.notes] == ["key 'split' is not used"]


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "dataset_info.json"])
def test_data_that_is_no_file_is_not_read(kind: str, name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/dev/zero")
    for path in (place, tmp_path, tmp_path / "*"):
        with pytest.raises(UsageError, match="is no file but a device") as caught:
            find_data(path)
        assert caught.value.where == str(place)


@pytest.mark.parametrize("target", ["nowhere", "x.jsonl"])
def test_a_link_to_nothing_is_no_data_file(target: str, tmp_path: Path) -> None:
    place = tmp_path / "x.jsonl"
    place.symlink_to(target)
    for path in (place, tmp_path / "*.jsonl"):
        with pytest.raises(UsageError, match=r"no such data file|no file matches"):
            find_data(path)
