"""What config.json leaves out is what transformers takes for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneserve.convert.merge.config import DEFAULTS, read_config
from tuneserve.errors import UsageError


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_transformers(kind: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind)
    assert {key: getattr(config, key) for key in DEFAULTS[kind]} == DEFAULTS[kind]


def test_left_out_and_lacking(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3", "rms_norm_eps": 1e-5}))
    config = read_config(tmp_path)
    assert (config["head_dim"], config["rms_norm_eps"]) == (128, 1e-5)
    with pytest.raises(UsageError, match="lacks 'hidden_size'") as caught:
        config.changed(x=1)["hidden_size"]
    assert caught.value.where == str(path)
