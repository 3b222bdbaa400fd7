"""The process of transformers_template.py: transformers' own code renders."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from tuneserve.chat.render_process import main

# Rendering needs no torch, whose import takes seconds, and NumPy no threads.
sys.modules["torch"] = None  # type: ignore[assignment]
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402


class _Template:
    def __init__(self, source: str) -> None:
        self._source = source

    def render(self, variables: Mapping[str, Any]) -> str:
        given = dict(variables)
        texts, _ = render_jinja_template(
            conversations=[given.pop("messages")], chat_template=self._source, **given
        )
        return str(texts[0])


if __name__ == "__main__":
    main(_Template)
