"""llm: its command line and its Python API, with a model from extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import checks
from checks import MODEL, QUESTION, TOKENS, Person

# Both read the folder when they are imported or started.
folder = Path(tempfile.mkdtemp(prefix="llm-"))
os.environ["LLM_USER_PATH"] = str(folder)
SETTINGS = f"""\
- model_id: local
  model_name: {MODEL}
  api_base: {checks.V1}
  supports_tools: true
  supports_schema: true
- model_id: local-completion
  model_name: {MODEL}
  api_base: {checks.V1}
  completion: true
"""
(folder / "extra-openai-models.yaml").write_text(SETTINGS)


def _model(name: str = "local") -> Any:
    import llm

    model: Any = llm.get_model(name)
    model.key = checks.KEY
    return model


def command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "local", "-o", "max_tokens", str(TOKENS), QUESTION],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    checks.check_text(done.stdout.strip())


def chat() -> None:
    checks.check_text(_model().prompt(QUESTION, stream=False, max_tokens=TOKENS).text())


def stream() -> None:
    checks.check_text("".join(_model().prompt(QUESTION, max_tokens=TOKENS)))


def conversation() -> None:
    talk = _model().conversation()
    talk.prompt(QUESTION, max_tokens=16).text()
    checks.check_text(talk.prompt("And now?", max_tokens=16).text())


def tools() -> None:
    """A tool is offered; a small model need not call it, but the chain must come to an end."""
    chain = _model().chain(QUESTION, tools=[checks.weather], options={"max_tokens": 200})
    checks.check_text(chain.text())


def structured_output() -> None:
    answer = _model().prompt(QUESTION, schema=Person, stream=False, max_tokens=300).text()
    Person.model_validate(json.loads(answer))


def text_completion() -> None:
    checks.check_text(_model("local-completion").prompt("Once upon", max_tokens=8).text())


if __name__ == "__main__":
    checks.run(
        "llm", command_line, chat, stream, conversation, tools, structured_output, text_completion
    )
