"""What changes a measurement, as a hash: two measurements with one key are the same.

Only what changes an answer is in its key: the files of the model, the token ids of the prompt (and
with them the chat template), what shares its block, how many tokens it may have, the KV cache, the
engine. Port, log, threads and the scorer are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.bench.measure.answers import answer_blocks, in_another_order
from tuneserve.bench.measure.journal import Key
from tuneserve.bench.measure.values import ANSWER, CHOICE, LIKELIHOOD, SERVED, SPEED, TEXT
from tuneserve.bench.measure.work import ENDPOINT, NOISE_FLOOR, TOGETHER, AnswerRequest, Workload
from tuneserve.chat.prompt import EncodedExample
from tuneserve.chat.template import api_message
from tuneserve.extras import installed_version
from tuneserve.settings import BenchSettings, ServeSettings

MEASURING, TIMING = 2, 3
"""New numbers for changes of ours after which the same model is measured, or timed, otherwise."""

# What the KV cache and the graph are made with; the rest of [serve] changes speed at most.
_OF_ANSWERS = ("cache_type_k", "cache_type_v", "flash_attention", "batch", "micro_batch")


def digest(*parts: Any) -> str:
    """SHA-256 of JSON values, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def model_conditions(
    model: str, adapter: str | None, serve: ServeSettings, processor: str
) -> dict[str, Any]:
    """What a model's answers depend on beside the prompts, by the names that a user knows;
    `model` and `adapter` are the SHA-256 of the files."""
    return {
        "model file": model,
        "adapter": adapter,
        **{name: getattr(serve, name) for name in _OF_ANSWERS},
        "device": f"GPU ({serve.split_mode})" if serve.gpu_layers else processor,
        "llama-cpp-python": installed_version("llama-cpp-python"),
        "measuring": MEASURING,
    }


def model_keys(
    name: str,
    conditions: Mapping[str, Any],
    workload: Workload,
    bench: BenchSettings,
) -> dict[Key, str]:
    """The keys of everything that is measured of 'base' or 'tuned' by itself."""
    model = digest(conditions)
    keys: dict[Key, str] = {}
    parts = [(LIKELIHOOD, part) for part in workload.expected]
    parts += [(CHOICE, part) for part in workload.choices]
    for kind, items in parts:
        # Which are computed together follows from all of the part.
        shared = digest(
            model, "likelihood", bench.parallel,
            [[item.prompt, item.answer, item.unscored] for item in items],
        )  # fmt: skip
        for place, item in enumerate(items):
            keys[kind, name, item.example.id] = digest(shared, place)
    keys |= {
        (TEXT, name, text): digest(model, TEXT, chunks.tolist())
        for text, chunks in workload.texts.items()
    }
    return keys | _answer_keys(name, model, workload.requests, bench)


def speed_conditions(
    conditions: Mapping[str, Mapping[str, Any]], bench: BenchSettings, serve: ServeSettings
) -> dict[str, Any]:
    """What the speeds of the models with these `conditions`, by name, depend on beside the
    prompts."""
    return {
        **{
            f"{key} of {name}": value
            for name, of in conditions.items()
            for key, value in of.items()
        },
        **serve.model_dump(mode="json", include={"threads", "gpu_layers", "mmap", "mlock"}),
        "speed_repetitions": bench.speed_repetitions,
        "ctx": min(bench.ctx, 1 << 20),
        "timing": TIMING,
    }


def speed_keys(conditions: Mapping[str, Any], text: Sequence[int]) -> dict[Key, str]:
    """The key of the speeds of both, which are measured in one sitting on a text; `conditions` are
    theirs."""
    return {(SPEED, TOGETHER, ""): digest(conditions, list(text))}


def noise_keys(
    conditions: Mapping[str, Any], requests: Sequence[AnswerRequest], bench: BenchSettings
) -> dict[Key, str]:
    """The keys of the base's answers when it is asked again."""
    again = in_another_order(requests, bench.seed)
    return _answer_keys(NOISE_FLOOR, digest(conditions), again, bench)


def _answer_keys(
    name: str, model: str, requests: Sequence[AnswerRequest], bench: BenchSettings
) -> dict[Key, str]:
    keys: dict[Key, str] = {}
    for block in answer_blocks(requests, bench.parallel):
        # What is computed in one batch touches each other's last digits.
        shared = digest(
            model,
            ANSWER,
            bench.parallel,
            [_asked(request) for request in block],
        )
        for place, request in enumerate(block):
            keys[ANSWER, name, request.id] = digest(shared, place)
    return keys


def _asked(request: AnswerRequest) -> list[Any]:
    asked = [request.encoded.prompt, request.max_tokens, request.expected]
    return asked if request.until is None else [*asked, request.until]


def served_keys(
    conditions: Mapping[str, Any],
    prompts: Sequence[Any],
    serve: ServeSettings,
    bench: BenchSettings,
) -> dict[Key, str]:
    """The key of what clients get from the served tuned model: all numbers of clients are measured
    in one sitting."""
    here = {"host", "port", "log", "log_prompts", "api_key_file", "tls_cert", "tls_key"}
    key = digest(
        digest(conditions),
        SERVED,
        TIMING,
        serve.model_dump(mode="json", exclude=here),
        [[api_message(message) for message in prompt] for prompt in prompts],
        bench.clients,
        bench.ctx,
    )
    return {(SERVED, "tuned", ""): key}


def endpoint_keys(encoded: Sequence[EncodedExample], bench: BenchSettings) -> dict[Key, str]:
    """The keys of an endpoint's answers: where it is, which model, what it is sent."""
    asked = [bench.endpoint, bench.endpoint_model, bench.endpoint_body, bench.max_tokens]
    return {
        (ANSWER, ENDPOINT, item.example.id): digest(
            asked,
            [api_message(message) for message in item.example.prompt],
            list(item.example.tools or ()),
        )
        for item in encoded
    }
