"""The base model's own answers to general questions, to replay while it is trained.

The base is written as a GGUF for as long as it speaks, in 16 bits or, where that would be large, in
Q8_0 (which says nearly the same), and answers many questions at a time in the server's engine: on a
CPU several times as fast as torch, which also waits for the slowest answer of each batch. Where
there is a GPU that the installed llama-cpp-python can't use, torch does it there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tuneserve.base import ResolvedBase, resolve_base
from tuneserve.console import progress, say
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.quantize import quantized_bytes, temporary_quantization, write_quantized
from tuneserve.convert.resources import check_disk
from tuneserve.errors import TuneserveError
from tuneserve.files import cache_directory, temporary_folder
from tuneserve.finetune.runtime.libraries import quiet
from tuneserve.finetune.runtime.model import load_tokenizer
from tuneserve.finetune.self_distillation import (
    EncodedPrompt,
    ReplayPrompt,
    Sampling,
    answers_by_torch,
    encode_prompts,
    replay_example,
)
from tuneserve.finetune.tokens.encoder import Encoder
from tuneserve.llama import free_gpu_memory, physical_cores
from tuneserve.serve.engine import Engine, SamplingParams
from tuneserve.serve.offload import offline_settings, with_gpu_layers
from tuneserve.settings import ModelSettings, ServeSettings

_AT_A_TIME = 24
# What the KV cache may hold for all answers together, unless a single one needs more.
_MOST_TOKENS = 32_768


def make_general(
    settings: ModelSettings, questions: Sequence[ReplayPrompt], sampling: Sampling
) -> list[dict[str, str]]:
    """Examples {group, instruction, output}: the base's own answers to the questions, sampled at
    the temperature without any filter.

    Raises UsageError if the base can't be had or converted, TuneserveError if no answer came to
    its end.
    """
    base = resolve_base(settings.base)
    encoder = Encoder(load_tokenizer(base.path, settings), max_length=1 << 30)
    asked = encode_prompts(encoder, questions, sampling.samples)
    say(f"base model: {base.name}; {len(asked):,} answers")
    with quiet(), temporary_folder(cache_directory() / "answers") as scratch:
        by_torch = settings.load_in_4bit or _only_torch_has_a_gpu()
        path = None if by_torch else _write_base(base, scratch)
        with progress("answering", len(asked), unit="answers") as advance:
            if path is None:
                answers = answers_by_torch(base.path, settings, encoder, asked, sampling, advance)
            else:
                answers = answers_by_engine(path, asked, sampling, advance)
    found = [
        replay_example(encoder, one, answer)
        for one, answer in zip(asked, answers, strict=True)
        if answer is not None
    ]
    examples = [example for example in found if example is not None]
    if not examples:
        raise TuneserveError(
            f"none of {len(asked)} answers came to its end within {sampling.max_tokens} tokens",
            where=base.name,
            hint="Raise --max-tokens; reasoning models need thousands.",
        )
    return examples


def _only_torch_has_a_gpu() -> bool:
    if free_gpu_memory():
        return False
    import torch

    return bool(torch.cuda.is_available())


def _write_base(base: ResolvedBase, folder: Path) -> Path:
    model = GGUFModel(MergedCheckpoint(base.path), base.path, name=base.name)
    kind = temporary_quantization(model)
    check_disk(folder, quantized_bytes(model, kind))
    path = folder / f"base-{kind}.gguf"
    write_quantized(model, path, kind, threads=physical_cores())
    return path


def answers_by_engine(
    path: Path, asked: Sequence[EncodedPrompt], sampling: Sampling, answered: Callable[[int], None]
) -> list[list[int] | None]:
    """The answers' ids without their end tokens, None for one that did not come to its end.

    `answered` is told, in the engine's thread, how many there are now more.
    """
    each = [
        SamplingParams(
            temperature=sampling.temperature, seed=sampling.seed + place,
            max_tokens=sampling.max_tokens,
        )
        for place in range(len(asked))
    ]  # fmt: skip
    with Engine(path, _settings(path, asked, sampling), steady=True) as engine:
        done = engine.generate(
            [one.prompt for one in asked], each, on_done=lambda _place, _answer: answered(1)
        )
    return [list(one.tokens[:-1]) if one.finish_reason == "stop" else None for one in done]


def _settings(path: Path, asked: Sequence[EncodedPrompt], sampling: Sampling) -> ServeSettings:
    """A cell in the KV cache for every token of the answers given at a time, without rounding."""
    longest = max(len(one.prompt) for one in asked) + sampling.max_tokens
    slots = max(1, min(_AT_A_TIME, len(asked), _MOST_TOKENS // longest))
    ctx = -(-slots * longest // 256) * 256
    exact = ServeSettings(cache_type_k="f16", cache_type_v="f16")
    return with_gpu_layers(path, offline_settings(exact, ctx=ctx, slots=slots))
