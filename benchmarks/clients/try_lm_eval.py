"""lm-eval: multiple choice, perplexity and generation, over completions and over chat."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import checks
from checks import MODEL

# The tasks are files of this machine, so nothing is asked of a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import lm_eval
from lm_eval.tasks import TaskManager

folder = Path(tempfile.mkdtemp(prefix="lm-eval-"))
ROWS = [
    {"question": "The sky is", "choices": ["blue", "loud", "seven"], "answer": 0},
    {"question": "Two and two are", "choices": ["green", "four", "slow"], "answer": 1},
    {"question": "A dog can", "choices": ["bark", "evaporate", "rhyme"], "answer": 0},
    {"question": "Ice is", "choices": ["loud", "square", "cold"], "answer": 2},
]
COMMON = f"""\
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/rows.jsonl
test_split: test
"""
TASKS = {
    "choice": """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "perplexity": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}}."
metric_list: [{metric: word_perplexity}]
""",
    "generation": """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


def _evaluate(task: str, *, model: str, path: str, **fields: Any) -> dict[str, Any]:
    """The task's metrics."""
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{COMMON}{text}")
    options = {"model": MODEL, "base_url": f"{checks.V1}/{path}", "num_concurrent": 2,
               "max_retries": 1, "max_gen_toks": 8, **fields}  # fmt: skip
    result = lm_eval.simple_evaluate(
        model=model,
        model_args=options,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        apply_chat_template=model == "local-chat-completions",
        bootstrap_iters=0,
    )
    found: dict[str, Any] = result["results"][task]
    return found


def _completions(task: str) -> dict[str, Any]:
    return _evaluate(
        task,
        model="local-completions",
        path="completions",
        tokenizer=os.environ["TUNESERVE_TOKENIZER"],
    )


def multiple_choice() -> None:
    """By the logprobs of the prompt's own tokens: echo with logprobs."""
    assert 0 <= _completions("choice")["acc,none"] <= 1


def perplexity() -> None:
    assert _completions("perplexity")["word_perplexity,none"] > 1


def generation() -> None:
    assert "exact_match,none" in _completions("generation")


def chat_generation() -> None:
    found = _evaluate("generation", model="local-chat-completions", path="chat/completions")
    assert "exact_match,none" in found


if __name__ == "__main__":
    checks.run("lm-eval", multiple_choice, perplexity, generation, chat_generation, name="lm-eval")
