"""The process of transformers_template.py: transformers' own code renders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tuneserve.chat.render_process import main
from tuneserve.extras import leave_out

# Rendering needs no torch, and NumPy no threads.
leave_out("torch")
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
