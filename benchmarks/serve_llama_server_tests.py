"""llama-server's own unit tests, pointed at this server: how many pass, and why the others don't.

Its tests can be told that the server runs already (DEBUG_EXTERNAL). All but the slow ones are run,
against a plain server, one that serves embeddings, one that asks for the key that its tests use,
and two whose model has the name that the tests of an API ask for. A test that fails is listed with
its reason: most ask for words and token counts of a model that is not here, for llama-server's own
paths and fields, or for options that the test would have started its server with. A failure that no
reason explains makes the exit code 1.

    python benchmarks/serve_llama_server_tests.py LLAMA_CPP_SOURCE model.gguf --python PYTHON

PYTHON has llama.cpp's tools/server/tests/requirements.txt installed. None of its code is part of
this project. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from serve_peers import Peer, free_port, running

NAME = "gpt-3.5-turbo-instruct"
"""The model that its tests ask for by name; they send it to a server with another model."""

KEY = "sk-this-is-the-secret-key"

RUNS: dict[str, tuple[list[str], list[str]]] = {
    "embeddings": (["embedding"], ["--embeddings"]),
    "Anthropic's": (["compat_anthropic"], ["--name", "test"]),
    "responses": (["compat_oai_responses"], ["--name", "gpt-4.1"]),
    "with a key": (["security"], ["--api-key-file", "KEYS"]),
}
"""Name of a server: (files of tests, its options). All other files ask a plain one."""

MODEL = "asks for words, token counts or token ids of its own test model"
NATIVE = "llama-server's own paths or fields, which the OpenAI API does not have"
FEATURES = "of llama-server's features that are no part of an API and are not here"
FILE = "needs a file from a hub"
STARTED = "needs options that the test would have started its server with"
DIFFERENT = "decided otherwise here"

REASONS: list[tuple[str, str]] = [
    (r"^test_(lora|speculative)::|slot_.*image", FILE),
    (
        r"^test_(compat_gcp|infill|kv_keep_only_active|mcp_servers|proxy|rerank|router|sleep"
        r"|slot_save|stream|tools_builtin)::",
        FEATURES,
    ),
    (r"^test_(ctx_shift|ignore_eos)::", NATIVE),
    (r"^test_(template|vision_api)::", STARTED),
    (
        r"::test_chat_completion\[|chat_completion_cached_tokens|with_bos|embedding_usage"
        r"|(completion|responses)_with_openai_library|test_server_models$",
        MODEL,
    ),
    (
        r"^test_completion::|apply_chat_template|test_chat_template|with_json_schema|timings"
        r"|response_format[01]-|progress|multiple_choices|token_count|verbose_debug|server_slots"
        r"|server_props|with_pieces|aliases_and_tags|content_text_same|mixed_input|pooling_none"
        r"|prompt_processed|predicted_total|generation_rate|slots_idle|embedding_prompt"
        r"|test_correct_api_key|llama_telemetry",
        NATIVE,
    ),
    (
        r"::test_cors|media_file|multiple_addresses|load_split_model|no_ui|metrics_disabled"
        r"|static_assets|prompt_too_long|thinking_history|vision|with_image",
        STARTED,
    ),
    (
        r"chat_completion_stream|without_tool_call_fast.*STREAMED|test_logprobs_stream"
        r"|context_size_exceeded|req\[messages7\]|prometheus_format|openai_library|empty_messages",
        DIFFERENT,
    ),
]
"""(pattern of tests, why they can't pass). Decided otherwise: the first chunk's content is "", as
OpenAI sends it; a context overflow has OpenAI's code; a last turn of the assistant's may follow
another; unknown model names are refused; metrics have no header of their own; a conversation
without messages is refused."""


def reason_for(test: str) -> str | None:
    """Why a test can't pass here, if that is known."""
    return next((reason for pattern, reason in REASONS if re.search(pattern, test)), None)


def servers(tests: Path, only: list[str]) -> list[tuple[list[str], list[str]]]:
    """(files, options of the server that they ask): each file once, `only` some if any."""
    found = {path.stem.removeprefix("test_") for path in (tests / "unit").glob("test_*.py")}
    if only:
        found &= {*only}
    asked = [([*filter(found.__contains__, files)], options) for files, options in RUNS.values()]
    plain = found.difference(*(files for files, _ in asked))
    return [(files, options) for files, options in [(sorted(plain), []), *asked] if files]


def run(
    tests: Path, files: list[str], model: Path, options: list[str], python: str
) -> list[tuple[str, str, str]]:
    """(test, outcome, message) of each test of some files against a server of ours."""
    port = free_port()
    keys = tests / "keys"
    keys.write_text(f"{KEY}\n")
    options = [str(keys) if option == "KEYS" else option for option in options]
    peer = Peer(
        "tuneserve",
        [sys.executable, "-m", "tuneserve", "serve", str(model), "--name", NAME, "--port",
         str(port), "--ctx", "512", "--slots", "2", "--log", "off", *options],
        port,
    )  # fmt: skip
    report = tests / "report.xml"
    command = [
        python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow",
        f"--junitxml={report}", *(f"unit/test_{name}.py" for name in files),
    ]  # fmt: skip
    environment = {**os.environ, "DEBUG_EXTERNAL": "1", "PORT": str(port)}
    with running(peer, tests / "server.log"):
        subprocess.run(command, cwd=tests, env=environment, stdout=subprocess.DEVNULL, check=False)
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        failed = next((part for part in case if part.tag in ("failure", "error")), None)
        skipped = any(part.tag == "skipped" for part in case)
        outcome = "failed" if failed is not None else "skipped" if skipped else "passed"
        found.append((name, outcome, "" if failed is None else str(failed.get("message"))))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="llama.cpp's source")
    parser.add_argument("model", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--files", nargs="*", default=[], help="only these, as completion lora")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as directory:
        tests = Path(directory) / "tests"
        shutil.copytree(arguments.source / "tools/server/tests", tests)
        for files, options in servers(tests, arguments.files):
            results += run(tests, files, arguments.model, options, arguments.python)
    counts = Counter(outcome for _, outcome, _ in results)
    of_files: dict[str, Counter[str]] = {}
    for test, outcome, _ in results:
        of_files.setdefault(test.partition("::")[0], Counter())[outcome] += 1
    reasons: Counter[str] = Counter()
    unexplained = []
    for test, outcome, message in results:
        if outcome != "failed":
            continue
        reason = reason_for(test)
        reasons[reason or "not explained"] += 1
        print(f"{test}: {reason or 'not explained'}: {message[:300]!r}")
        if reason is None:
            unexplained.append(test)
    for file, of_file in of_files.items():
        print(f"{file:20} {of_file['passed']:3} of {sum(of_file.values())}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    for reason, count in reasons.most_common():
        print(f"{count:5}  {reason}")
    print(json.dumps({"counts": counts, "reasons": reasons, "unexplained": unexplained}))
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
