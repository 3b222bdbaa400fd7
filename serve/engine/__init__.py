"""The engine: many requests in one llama.cpp context, batched continuously.

One thread owns the context. Every request is a sequence in its unified KV cache; each step decodes
one token of every running sequence together with a chunk of the prompts that are coming in.

In process, without HTTP:

    from tuneserve.serve.engine import GREEDY, Engine, SamplingParams

    with Engine(Path("model.gguf"), ServeSettings(slots=16, ctx=8192)) as engine:
        ids = engine.model.tokenize("1 + 1 =")            # the loaded tuneserve.llama.LlamaModel
        done = engine.generate([ids, ids], GREEDY)        # blocks; results in the prompts' order
        done[0].text, done[0].tokens, done[0].finish_reason
        done[0].prompt_tokens, done[0].cached_tokens
        done[0].timings.queue, done[0].timings.prompt, done[0].timings.generation   # seconds

        one = engine.submit(ids, SamplingParams(temperature=0.7, seed=1, max_tokens=64))   # at once
        one.result(timeout=60)                            # a Completion, or raises
        one.cancel()                                      # ends it within a step

`generate(prompts, sampling, on_done=...)` takes any number of prompts (token-id sequences, BOS
included where the model wants one: as `tuneserve.chat.prompt` makes them), one
SamplingParams for all or one for each, keeps `slots` of them decoding and calls
`on_done(index, completion)` as each ends. `settings` is a `tuneserve.settings.ServeSettings`; of it
the engine reads what is about the model, the context, the prefix cache, the queue and its times,
and `embeddings`; not what is about HTTP, and `gpu_layers` only as a number. `ctx` is the number of
tokens that all sequences hold together.

Errors: UsageError or TuneserveError while loading; PromptTooLongError (TextTooLongError for an
embedding) and QueueFullError at submit; EngineError from `result`.
"""

from tuneserve.serve.engine.engine import Engine
from tuneserve.serve.engine.request import Generation
from tuneserve.serve.engine.types import (
    GREEDY,
    Completion,
    Delta,
    EngineError,
    EngineStats,
    Event,
    GrammarFailedError,
    NotCausalError,
    PromptTooLongError,
    QueueFullError,
    SamplingParams,
    TextTooLongError,
    Timings,
    TokenLogprob,
    UnavailableError,
    UnknownAdapterError,
)

__all__ = [
    "GREEDY",
    "Completion",
    "Delta",
    "Engine",
    "EngineError",
    "EngineStats",
    "Event",
    "Generation",
    "GrammarFailedError",
    "NotCausalError",
    "PromptTooLongError",
    "QueueFullError",
    "SamplingParams",
    "TextTooLongError",
    "Timings",
    "TokenLogprob",
    "UnavailableError",
    "UnknownAdapterError",
]
