"""Flags that say whether a message is learned: `weight` (OpenAI, Mistral), `training` (axolotl),
`loss` (ms-swift), and their like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneserve.finetune.data.values import BadRecord

_INVERTED = ("mask", "masked")
FLAGS = (
    "weight", "train", "training", "trainable", "loss", "loss_weight", "loss_scale", "learn",
    *_INVERTED,
)  # fmt: skip
SPANS = ("train_detail", "training_detail")
"""axolotl's flags for parts of an answer."""
_YES = {"1", "1.0", "true", "yes"}
_NO = {"0", "0.0", "false", "no"}


def learned(message: Mapping[str, Any], place: str) -> bool | None:
    """What the flags of a message (or record) say: is it learned? None: they say nothing.

    Raises BadRecord for a value that is neither yes nor no, and for flags that disagree.
    """
    said: dict[bool, str] = {}
    for key in FLAGS:
        value = message.get(key)
        if value is None or value == "":
            continue
        text = str(value).strip().lower() if isinstance(value, str | bool | int | float) else ""
        if text not in _YES | _NO:
            raise BadRecord(
                f"{place}: {key!r} must be 0 or 1, got {value!r:.40}: a message is learned or not"
            )
        said[(text in _YES) != (key in _INVERTED)] = key
    if len(said) == 2:
        raise BadRecord(f"{place}: {said[True]!r} and {said[False]!r} disagree")
    for key in SPANS:
        if message.get(key):
            raise BadRecord(f"{place}: {key!r}: an answer is learned as a whole or not at all")
    return next(iter(said), None)


def check_record(record: Mapping[str, Any]) -> None:
    """Raise BadRecord where flags beside the messages ask for anything but the usual."""
    flags = {key: value for key, value in record.items() if key in FLAGS}
    if str(flags.get("mask")).lower() in ("user", "human"):
        del flags["mask"]  # NeMo's: the user's turns are not learned, which holds anyway
    try:
        asked = learned(flags, "the record")
    except BadRecord as problem:
        raise BadRecord(
            f"{problem}. Records have no weight of their own: put them into a file with one "
            '([data] more = ["FILE*0.5"])'
        ) from None
    if asked is False:
        key = next(key for key, value in flags.items() if value is not None and value != "")
        raise BadRecord(f"{key!r} says that the record is not learned: leave it out")
