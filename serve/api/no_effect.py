"""Fields of requests that are taken though nothing is done with them, since they change no answer.

Some say something to the provider alone (whom to bill, what to store); others are switches in the
position in which they do nothing. They are named in the header `X-Tuneserve-Ignored`; a value that
would change the answer is refused by the field's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Fields = Mapping[str, Any]
Neutral = Callable[[Any, Fields], bool]
"""Does a value, among the request's others, change nothing?"""


def always(_value: Any, _given: Fields) -> bool:
    return True


def only(*values: Any) -> Neutral:
    """These values, and no others; True and False are no numbers here."""
    known = [(type(value) is bool, value) for value in values]
    return lambda value, _: (type(value) is bool, value) in known


def _mirostat_is_off(_value: Any, given: Fields) -> bool:
    return not given.get("mirostat") and not given.get("mirostat_mode")


def _as_many_as_n(value: Any, given: Fields) -> bool:
    return type(value) is int and value == (given.get("n") or 1)


def _without_logprobs(value: Any, given: Fields) -> bool:
    return type(value) is int and value == 0 and not given.get("logprobs")


_FOR_THE_PROVIDER = (
    "store", "metadata", "service_tier", "safety_identifier", "user", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "prediction", "request_id", "priority",
    "keep_alive", "cache_prompt", "id_slot",
    # llama-server's page: how it is told of the way to an answer, and where tokens are drawn.
    "return_progress", "timings_per_token", "sse_ping_interval", "reasoning_control",
    "backend_sampling",
)  # fmt: skip
_SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "functions": ([],), "function_call": ("none", "auto"), "suffix": ("",),
    "modalities": (["text"],), "verbosity": ("medium",),
    "use_beam_search": (False,), "length_penalty": (1, 0),
    "early_stopping": (False,), "typical_p": (1,), "tfs_z": (1,), "top_a": (0,), "mirostat": (0,),
    "mirostat_mode": (0,), "dynatemp_range": (0,), "dry_multiplier": (0,), "xtc_probability": (0,),
    "top_n_sigma": (-1,), "n_probs": (0,), "min_tokens": (0,), "bad_words": ([],),
    "logits_processors": ([],), "detokenize": (True,), "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,), "add_special_tokens": (True,),
    "include_stop_str_in_output": (False,), "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,), "reasoning_format": ("auto", "deepseek"),
    "include_reasoning": (True,), "separate_reasoning": (True,),
}  # fmt: skip

OF_REQUESTS: Mapping[str, Neutral] = {
    **dict.fromkeys(_FOR_THE_PROVIDER, always),
    **{name: only(*values) for name, values in _SWITCHED_OFF.items()},
    "mirostat_tau": _mirostat_is_off,
    "mirostat_eta": _mirostat_is_off,
    "best_of": _as_many_as_n,
    "echo": only(False),
    "top_logprobs": _without_logprobs,
}
OF_MESSAGES: Mapping[str, Neutral] = dict.fromkeys(
    ("annotations", "provider_specific_fields", "cache_control", "parsed", "id", "status"), always
)
"""What clients' classes hold of an answer beside what it says."""
OF_PARTS: Mapping[str, Neutral] = dict.fromkeys(("cache_control", "annotations"), always)
OF_CALLS: Mapping[str, Neutral] = dict.fromkeys(
    ("index", "parsed_arguments", "provider_specific_fields", "cache_control"), always
)
OF_STREAM_OPTIONS: Mapping[str, Neutral] = {"include_obfuscation": always}
OF_STRUCTURED_OUTPUTS: Mapping[str, Neutral] = dict.fromkeys(
    ("disable_fallback", "disable_any_whitespace", "disable_additional_properties",
     "whitespace_pattern", "backend"),
    always,
)  # fmt: skip
