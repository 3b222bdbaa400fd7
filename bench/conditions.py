"""Is it a fair comparison? Everything but the weights must be equal for base and tuned."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneserve.arrays import Ids
from tuneserve.bench.measure.perplexity import chunked, read_corpus
from tuneserve.bench.tasks.examples import encode_examples
from tuneserve.bench.tasks.texts import TextPrompt, encode_texts
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import EncodedExample
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel
from tuneserve.settings import BenchSettings, ServeSettings

REMAKE = "Make both GGUFs again with the same settings: tuneserve convert --run NAME --force"


def encode_for_both(
    base: Path,
    tuned: Path,
    examples: Sequence[Example],
    thoughts: str,
    texts: Sequence[TextPrompt] = (),
) -> tuple[list[EncodedExample], str]:
    """The prompts, then the `texts`, as token ids, proved equal under both GGUFs, and the chat
    template.

    Raises TuneserveError if templates or token ids differ: the figures would not compare.
    """
    with (
        LlamaModel(base, vocab_only=True) as base_model,
        LlamaModel(tuned, vocab_only=True) as tuned_model,
    ):
        key = "tokenizer.chat_template"
        template = tuned_model.metadata(key) or ""
        if base_model.metadata(key) != template:
            raise TuneserveError(
                "base and tuned GGUF carry different chat templates", where=str(base), hint=REMAKE
            )
        encoded, other = (
            encode_examples(model, examples, thoughts=thoughts) + encode_texts(model, texts)
            for model in (tuned_model, base_model)
        )
        for ours, theirs in zip(encoded, other, strict=True):
            if ours != theirs:
                raise TuneserveError(
                    f"base and tuned GGUF tokenize prompt '{ours.example.id}' differently",
                    where=str(base),
                    hint=REMAKE,
                )
    return encoded, template


def chunk_texts(model_path: Path, texts: Sequence[str]) -> dict[str, Ids]:
    """The text files as chunks of token ids, by name as given."""
    if not texts:
        return {}
    with LlamaModel(model_path, vocab_only=True) as model:
        return {name: chunked(model, read_corpus(Path(name)), where=name) for name in texts}


def require_same_types(base: Path, tuned: Path) -> str:
    """The tensors' types with their counts, as text, proved equal tensor by tensor."""
    ours, theirs = (
        {name: tensor.type_name for name, tensor in GGUFFile(path).tensors.items()}
        for path in (tuned, base)
    )
    differing = [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]
    if differing:
        first = differing[0]
        raise TuneserveError(
            f"base and tuned are not quantized alike: {len(differing)} tensors differ, first "
            f"{first} ({theirs.get(first, 'absent')} in the base, {ours.get(first, 'absent')})",
            where=str(base),
            hint=REMAKE,
        )
    return ", ".join(f"{count} {kind}" for kind, count in Counter(ours.values()).most_common())


def require_room(
    encoded: Sequence[EncodedExample], settings: BenchSettings, *, more: int = 0
) -> None:
    """Raise UsageError if a prompt with its reference, or with one token, and with `more` tokens
    exceeds the context."""
    sizes = [(item, len(item.prompt) + len(item.answer) + more) for item in encoded]
    problems = [f"{item.example.id}: {size} tokens" for item, size in sizes if size > settings.ctx]
    if problems:
        raise UsageError(
            f"{len(problems)} prompts with their reference answers don't fit {settings.ctx} tokens",
            where="bench.ctx",
            hint="Raise --ctx ([bench] ctx), or shorten the examples.",
            problems=problems,
        )


def describe_conditions(
    quantization: str, types: str, template: str, serve: ServeSettings, bench: BenchSettings
) -> dict[str, str]:
    """What both models shared, for the report."""
    digest = hashlib.sha256(template.encode()).hexdigest()[:12]
    return {
        "Quantization": f"{quantization} ({types}), checked tensor by tensor",
        "Chat template": f"the same in both GGUFs (sha256 {digest}…)",
        "Prompts": "the same token ids under both tokenizers, checked for every prompt",
        "Sampling": f"greedy, at most {bench.max_tokens:,} tokens an answer",
        "Context": f"{bench.ctx:,} tokens a prompt, {bench.parallel} prompts at a time",
        "KV cache": f"{serve.cache_type_k} keys, {serve.cache_type_v} values, flash attention "
        + ("on" if serve.flash_attention else "off"),
        "Offload": f"{serve.gpu_layers} layers on the GPU" if serve.gpu_layers else "none (CPU)",
    }


def describe_endpoint(bench: BenchSettings, answers: Sequence[Mapping[str, Any]]) -> str:
    """Who answered behind the endpoint, and how: not every one takes temperature 0."""
    model = bench.endpoint_model or "the first model that it lists"
    sampled = sum(bool(answer.get("sampled")) for answer in answers)
    how = "greedy"
    if sampled:
        how = f"{sampled:,} of {len(answers):,} answers sampled, not greedy: others next time"
    return f"{bench.endpoint}, {model}; {how}"
