"""Near-duplicates, balance, wordings, general examples: what training draws from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from tuneserve.chat.examples import Example
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.data.hub import HubData, fetch, local_path
from tuneserve.finetune.data.near_duplicates import find_near_duplicates
from tuneserve.finetune.data.prepare import Prepared, data_hash, prepare_examples
from tuneserve.finetune.data.prompt_variants import read_prompt_variants
from tuneserve.finetune.data.reading import read_examples
from tuneserve.finetune.tokens.encoder import Encoded, Encoder, problems_with_ends
from tuneserve.finetune.tokens.epoch import EpochSampler, TrainingSet, build_training_set
from tuneserve.finetune.training.losses import general_rise
from tuneserve.settings import DataSettings, Recipe, TrainSettings

TEXT = """
apple pear plum cherry house garden river mountain lake forest city village bread butter cheese
wine water milk honey salt stone paper glass iron silver copper window door roof wall
"""
WORDS = TEXT.split()


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"instruction": f"Name colour {i}.", "output": "red", **more} for i in range(count)]


def training_set(prepared: Prepared, settings: DataSettings) -> TrainingSet:
    """A training set whose tokens are the lengths of the prompts: no tokenizer is needed."""

    def encode(examples: Any) -> list[Encoded]:
        texts = [e.messages[0]["content"] for e in examples]
        return [Encoded([len(text)], [0], 1, 0) for text in texts]

    replay = encode(prepared.replay_set.train) if prepared.replay_set else []
    recipe = Recipe.model_construct(data=settings, train=TrainSettings(seed=0))
    parts = {"train": encode(prepared.split.train), "replay": replay}
    return build_training_set(prepared, parts, encode, recipe)


def drawn(draw: EpochSampler, epochs: int) -> Counter[int]:
    return Counter(place for epoch in range(epochs) for place in draw.places(epoch))


def test_near_duplicates_are_found_and_templates_are_not() -> None:
    sentences = [f"The {a} and the {b} were both sold" for a in WORDS[:15] for b in WORDS[15:]]
    sentences[10] = "Nobody on the old ferry had expected the storm to come before noon."
    held = ["Nobody on the old ferry had expected that storm to come before noon!"]
    (alike,) = find_near_duplicates(sentences, [*held, "Something else entirely."], 0.7)
    assert (alike.text, alike.held) == (10, 0)
    assert 0.7 < alike.similarity < 1.0
    sums = [f"What is {i * 37 % 1000} + {i * 91 % 1000}?" for i in range(300)]
    assert find_near_duplicates(sums[:200], sums[200:], 0.7) == []
    assert find_near_duplicates([], held, 0.7) == find_near_duplicates(held, [], 0.7) == []
    (same,) = find_near_duplicates(["x" * 3, *sentences[:3]], ["xxx"], 1.0)
    assert same.similarity == 1.0


def test_a_training_example_like_a_held_out_one_is_removed_and_counted(write_lines: Any) -> None:
    texts = [f"{a} {b} {a[::-1]} {b[::-1]}" for a in WORDS for b in WORDS[:10]]
    twins = [f"{text}!" for text in texts]
    records = [{"instruction": text, "output": "x"} for text in (*texts, *twins)]
    settings = DataSettings(file=write_lines(*records))
    split = prepare_examples(settings).split
    exact = prepare_examples(settings.model_copy(update={"near_duplicates": 1.0})).split
    assert split.test == exact.test
    assert split.near
    assert sum(split.counts().values()) + split.removed == len(records)
    held = {e.prompt_key.rstrip("!") for e in (*split.test, *split.eval)}
    assert not held & {e.prompt_key.rstrip("!") for e in split.train}
    assert held & {e.prompt_key.rstrip("!") for e in exact.train}


def test_a_file_counts_as_often_as_its_weight_says(write_lines: Any) -> None:
    one = write_lines(*rows(100), name="one.jsonl")
    other = write_lines(
        *[{"instruction": f"Say {w} {v}.", "output": w} for w in WORDS for v in WORDS[:4]],
        name="other.jsonl",
    )
    settings = DataSettings(file=one, more=(f"{other}*2.5",), test_fraction=0, eval_fraction=0)
    prepared = prepare_examples(settings)
    found = training_set(prepared, settings)
    assert len(found.sampler) == 100 + 2.5 * 120
    counts = drawn(found.sampler, 2)
    weights = {p: counts[p] / 2 for p in range(220)}
    assert all(weights[p] == e.weight for p, e in enumerate(prepared.split.train))


@pytest.mark.parametrize("balance", ["group", "answer"])
def test_balanced_classes_come_equally_often_and_an_epoch_stays_as_long(
    write_lines: Any, balance: str
) -> None:
    few, many = (
        [{"instruction": f"{g} {i}", "output": f"is {g}", "group": g} for i in range(n)]
        for g, n in (("rare", 20), ("frequent", 180))
    )
    settings = DataSettings(
        file=write_lines(*few, *many), test_fraction=0, eval_fraction=0, balance=balance
    )
    prepared = prepare_examples(settings)
    draw = training_set(prepared, settings).sampler
    assert len(draw) == 200
    groups = Counter(prepared.split.train[p].group for p in draw.places(0))
    assert groups == {"rare": 100, "frequent": 100}
    # In nine epochs all 180 have come five times, however few an epoch holds.
    assert set(drawn(draw, 9).values()) == {45, 5}


def test_there_must_be_something_to_balance_by(write_lines: Any) -> None:
    path = write_lines(*[{"instruction": f"a{i}", "output": f"b{i}"} for i in range(30)])
    for balance, reason in (("group", "no example has a group"), ("answer", "too many")):
        settings = DataSettings(file=path, test_fraction=0, eval_fraction=0, balance=balance)
        with pytest.raises(UsageError, match=reason):
            training_set(prepare_examples(settings), settings)


def test_wordings_take_turns_in_training_and_leave_the_held_out_alone(
    write_lines: Any, tmp_path: Path
) -> None:
    wordings = tmp_path / "wordings.txt"
    wordings.write_text("Name colour\nWhich is the colour of number\nColour, please:\n")
    settings = DataSettings(file=write_lines(*rows(60)), wordings=wordings)
    prepared = prepare_examples(settings)
    assert all(e.messages[0]["content"].startswith("Name") for e in prepared.split.test)
    found = training_set(prepared, settings)
    train = len(prepared.split.train)
    assert found.variants == 2 * train
    assert len(found.sampler) == train
    assert set(drawn(found.sampler, 3).values()) == {1}
    assert len(drawn(found.sampler, 3)) == 3 * train
    assert prepared.variants is not None
    texts = {v.messages[0]["content"] for v in prepared.variants.of(prepared.split.train[0])}
    number = prepared.split.train[0].messages[0]["content"].removeprefix("Name colour ")
    assert texts == {
        f"{text} {number}"
        for text in ("Name colour", "Which is the colour of number", "Colour, please:")
    }
    before = data_hash(settings)
    wordings.write_text("Name colour\nGive the colour\n")
    assert data_hash(settings) != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no wordings"),
        ("only one\n", ":1: an instruction needs two wordings"),
        ("a\nb\n\nc\nc\n", ":4: an instruction needs two wordings"),
        ("never said\nnor this\n", ":1: no prompt holds 'never said'"),
    ],
)
def test_wordings_that_change_nothing_are_an_error(
    write_lines: Any, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "wordings.txt"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        prepare_examples(DataSettings(file=write_lines(*rows(40)), wordings=path))
    assert message in caught.value.render()


def test_files_of_wordings_that_cant_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (("none", "no such file"), ("binary", "not UTF-8"), (".", "can't be read")):
        with pytest.raises(UsageError, match=reason):
            read_prompt_variants(tmp_path / name)


def test_replay_is_the_share_that_was_asked_for_and_never_a_held_out_prompt(
    write_lines: Any,
) -> None:
    task = write_lines(*rows(200), name="task.jsonl")
    test = prepare_examples(DataSettings(file=task)).split.test
    general = write_lines(
        *[{"instruction": f"Say {a}, then {b}.", "output": a} for a in WORDS for b in WORDS[:5]],
        {"instruction": test[0].messages[0]["content"], "output": "other"},
        name="general.jsonl",
    )
    settings = DataSettings(file=task, general=general, replay=0.25)
    prepared = prepare_examples(settings)
    assert prepared.replay_set is not None
    assert test[0].prompt_key not in {e.prompt_key for e in prepared.replay_set.train}
    assert prepared.replay_set.removed + sum(prepared.replay_set.counts().values()) == 151
    found = training_set(prepared, settings)
    first = len(prepared.split.train)
    for epoch in range(3):
        places = found.sampler.places(epoch)
        assert sum(place >= first for place in places) / len(places) == pytest.approx(
            0.25, abs=0.01
        )
        assert sorted(place for place in places if place < first) == list(range(first))
    assert set(prepared.parts()) == {"train", "eval", "test", "replay", "general"}
    assert "learned by heart" not in found.describe()
    often = settings.model_copy(update={"replay": 0.8})
    assert "general --samples 6)" in training_set(prepared, often).describe()


@pytest.mark.parametrize("ending", ["", "!"])
def test_no_prompt_that_the_task_holds_out_is_replayed(write_lines: Any, ending: str) -> None:
    """Nor what says nearly the same. Its source sends a prompt to another side of the replay set
    than to that of the task's data."""
    prompts = [f"{a} {b} {a[::-1]} {b[::-1]}" for a in WORDS[:20] for b in WORDS]
    task = write_lines(*({"instruction": p, "output": "x"} for p in prompts), name="task.jsonl")
    replay = write_lines(
        *({"instruction": p + ending, "output": "y", "source": f"s{i}"}
          for i, p in enumerate(prompts)),
        name="general.jsonl",
    )  # fmt: skip
    prepared = prepare_examples(DataSettings(file=task, general=replay, replay=0.2))
    assert prepared.replay_set is not None
    held = {e.prompt_key for name in ("test", "eval") for e in prepared.split.part(name)}
    replayed = {e.prompt_key.removesuffix("!") for e in prepared.replay_set.train}
    assert min(len(held), len(replayed)) > 100
    assert not held & replayed
    assert {near.held.prompt_key for near in prepared.replay_set.near} & held


def test_too_few_general_examples(write_lines: Any) -> None:
    general = write_lines({"instruction": "a", "output": "b"}, name="general.jsonl")
    with pytest.raises(UsageError, match="general examples leave none to"):
        prepare_examples(DataSettings(file=write_lines(*rows(60)), general=general, replay=0.1))


def test_the_rise_of_the_general_loss_is_counted_from_the_first_evaluation() -> None:
    history = [{"general_loss": 2.0}, {"loss": 1.0}, {"general_loss": 1.5}, {"general_loss": 2.25}]
    assert general_rise(history) == 0.25
    assert general_rise([{"loss": 1.0}]) == 0.0


def test_plain_text_is_split_by_its_text(tmp_path: Path) -> None:
    paragraphs = [f"{a} {b} {a} {b[::-1]}." for a in WORDS for b in WORDS]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    counts = prepare_examples(DataSettings(file=tmp_path / "book.txt")).split.counts()
    assert min(counts.values()) > 20


def test_no_end_to_learn_is_an_error(demo_tokenizer: Any) -> None:
    encoder = Encoder(demo_tokenizer, max_length=64)
    long = Example(
        "x",
        ({"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 90}),
        where="f:1",
    )
    short = Example("y", ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    encoded = encoder.encode_all([long, short])
    assert problems_with_ends(encoder, [long, short], encoded) == []
    (problem,) = problems_with_ends(encoder, [long], encoded[:1])
    assert "f:1: this and every other training example is cut" in problem
    endless = Encoded([1, 50], [-100, 50], 2, 0)
    (problem,) = problems_with_ends(encoder, [long], [endless])
    assert "f:1: the answer has no end token" in problem


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_data_set_laid_out_as_on_the_hub_is_kept_and_read(tmp_path: Path, cache: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows(5, group="g"))
    (repository / "validation.jsonl").write_text(lines)
    data = HubData(str(repository), None, "validation")
    fetch(data, "hub:x/y@validation")
    read = read_examples(data.cached)
    assert [e.group for e in read.examples] == ["g"] * 5
    assert data.cached.is_relative_to(cache)
    named = HubData("owner/name", "en", "test").cached
    named.parent.mkdir(parents=True, exist_ok=True)
    named.write_bytes(data.cached.read_bytes())
    assert local_path(Path("hub:owner/name:en@test")) == named


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("hub:name", UsageError, "not the name of a hub data set"),
        ("hub:../x/y", UsageError, "not the name of a hub data set"),
        ("hub:owner/name", TuneserveError, "the hub data set can't be had"),
    ],
)
def test_hub_data_sets_that_cant_be_had(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    spec: str,
    error: type[TuneserveError],
    message: str,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=message) as caught:
        local_path(Path(spec))
    assert caught.value.where == spec
    assert not list(cache.rglob("*.parquet"))
