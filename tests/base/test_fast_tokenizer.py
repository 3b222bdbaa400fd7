"""What transformers says when a tokenizer is loaded."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tuneserve.base.fast_tokenizer import load_fast_tokenizer, save_fast_tokenizer
from tuneserve.files import read_json, write_json

# transformers looks at the regular expressions of vocabularies above this size.
LARGE = 100_001


@pytest.fixture
def large(tmp_path: Path, demo_base: Path) -> Path:
    """The demo's tokenizer with so many tokens more."""
    folder = tmp_path / "large"
    folder.mkdir()
    for name in ("tokenizer_config.json", "config.json"):
        shutil.copy(demo_base / name, folder)
    content = read_json(demo_base / "tokenizer.json")
    vocabulary = content["model"]["vocab"]
    first = max(vocabulary.values()) + 1
    vocabulary |= {f"\u0120token{number}": number for number in range(first, LARGE)}
    write_json(folder / "tokenizer.json", content)
    return folder


def warnings_of_loading(folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    # Other tests of the process let it propagate, which would give the handler each record twice.
    logger.propagate = False
    caplog.clear()
    try:
        tokenizer = load_fast_tokenizer(folder)
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(caplog.handler)
    save_fast_tokenizer(tokenizer, folder / "saved")
    assert not any("mistral" in key for key in read_json(folder / "saved/tokenizer_config.json"))
    return [record.getMessage() for record in caplog.records]


def test_a_large_vocabulary_gives_no_false_alarm_about_its_expression(
    large: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "transformers_version" not in read_json(large / "config.json")
    assert warnings_of_loading(large, caplog) == []
    config = read_json(large / "config.json")
    write_json(large / "config.json", {**config, "model_type": "mistral"})
    (alarm,) = warnings_of_loading(large, caplog)
    assert "incorrect regex" in alarm
