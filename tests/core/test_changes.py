from __future__ import annotations

from tuneserve.changes import changed_since, changed_values, with_defaults
from tuneserve.settings import Recipe, TrainSettings


def test_settings_that_differ_are_named_with_both_values() -> None:
    saved = Recipe().model_dump(mode="json")
    recipe = Recipe(train=TrainSettings(epochs=3, r=8))
    assert changed_since(saved, recipe, ("model", "data", "train")) == [
        "train.epochs was 1.0, is 3.0",
        "train.r was 16, is 8",
    ]
    assert changed_since(saved, recipe, ("model",)) == []


def test_of_a_part_of_the_settings_only_that_is_compared() -> None:
    saved = Recipe().model_dump(mode="json")
    now = {"bench": {"limit": 3, "task": saved["bench"]["task"]}}
    assert changed_values(saved, now) == ["bench.limit was 0, is 3"]


def test_a_setting_that_an_earlier_release_lacked_had_its_default() -> None:
    saved = Recipe().model_dump(mode="json")
    del saved["data"]["least_held_out"]
    assert changed_since(saved, Recipe(), ("data",)) == []
    refused = {"train": {"gone": 1}}
    assert with_defaults(refused) == refused
    assert "train.gone was 1, is not a setting" in changed_since(refused, Recipe(), ("train",))
