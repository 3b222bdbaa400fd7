"""`tuneserve perplexity`: of a GGUF on a text, or its divergence from another GGUF."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuneserve.console import print_json, progress, say, table
from tuneserve.options import resolve_settings, settings_options
from tuneserve.settings import ServeSettings

if TYPE_CHECKING:
    from tuneserve.bench.measure.perplexity import MeanError, TextDivergence, TextPerplexity

OPTIONS = (
    "cache_type_k",
    "cache_type_v",
    "flash_attention",
    "gpu_layers",
    "threads",
    "micro_batch",
)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("text", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="A GGUF (usually F16) to compare with: KL divergence and agreement on the top token.",
)
@click.option(
    "--chunk", default=512, type=click.IntRange(min=4), show_default=True, help="Tokens a chunk."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout.")
@settings_options("serve", only=OPTIONS)
@click.pass_context
def command(
    context: click.Context,
    /,
    model: Path,
    text: Path,
    against: Path | None,
    chunk: int,
    as_json: bool,
    **_: Any,
) -> None:
    """Measure a GGUF on a text exactly as llama-perplexity does.

    \b
    tuneserve perplexity model-Q4_K_M.gguf wiki.txt
    tuneserve perplexity model-Q4_K_M.gguf wiki.txt --against model-F16.gguf
    """
    settings = resolve_settings(context).serve
    if against is None:
        found = _perplexity(model, text, chunk, settings)
        rows = [["perplexity", _shown(found.perplexity)]]
    else:
        compared = _divergence(model, against, text, chunk, settings)
        rows = _divergence_rows(compared)
    if as_json:
        print_json(asdict(found if against is None else compared))
        return
    table(f"{model.name} on {text.name}", ["", "mean ± standard error"], rows)


def _perplexity(model: Path, text: Path, chunk: int, settings: ServeSettings) -> TextPerplexity:
    from tuneserve.bench.measure import perplexity
    from tuneserve.llama import LlamaModel
    from tuneserve.serve.offload import with_gpu_layers

    with LlamaModel(model, gpu_layers=with_gpu_layers(model, settings).gpu_layers) as loaded:
        chunks = perplexity.chunked(loaded, perplexity.read_corpus(text), chunk, where=str(text))
        with (
            perplexity.perplexity_context(loaded, settings, chunk) as context,
            progress("perplexity", len(chunks), unit="chunks") as advance,
        ):
            return perplexity.summarise_perplexity(perplexity.text_nll(context, chunks, advance))


def _divergence(
    model: Path, base: Path, text: Path, chunk: int, settings: ServeSettings
) -> TextDivergence:
    from tuneserve.bench.measure import perplexity
    from tuneserve.errors import UsageError
    from tuneserve.llama import LlamaModel
    from tuneserve.serve.offload import with_gpu_layers

    with (
        LlamaModel(base, gpu_layers=with_gpu_layers(base, settings).gpu_layers) as base_model,
        LlamaModel(model, gpu_layers=with_gpu_layers(model, settings).gpu_layers) as other_model,
    ):
        content = perplexity.read_corpus(text)
        chunks = perplexity.chunked(other_model, content, chunk, where=str(text))
        if chunks.tolist() != perplexity.chunked(base_model, content, chunk).tolist():
            raise UsageError(
                "the two models tokenize the text differently", where=f"--against {base}"
            )
        with (
            perplexity.perplexity_context(base_model, settings, chunk) as base_context,
            perplexity.perplexity_context(other_model, settings, chunk) as other_context,
            progress("divergence", len(chunks), unit="chunks") as advance,
        ):
            found = perplexity.text_divergence(base_context, other_context, chunks, advance)
    say(f"{len(chunks)} chunks of {chunk} tokens, the second half of each scored")
    return perplexity.summarise_divergence(found, len(chunks))


def _divergence_rows(found: TextDivergence) -> list[list[str]]:
    percentiles = [
        [f"KL divergence, {share}", f"{kld:.6f}"] for share, kld in found.percentiles.items()
    ]
    return [
        ["perplexity", _shown(found.perplexity)],
        ["perplexity of the other", _shown(found.base_perplexity)],
        ["ln of their ratio", _shown(found.log_ratio)],
        ["correlation of losses", f"{100 * found.correlation:.2f} %"],
        ["KL divergence", _shown(found.kld)],
        *percentiles,
        ["RMS change of p", f"{_shown(found.delta_p_rms, 100)} %"],
        ["same top token", f"{_shown(found.same_top, 100)} %"],
    ]


def _shown(mean: MeanError, factor: float = 1.0) -> str:
    return f"{factor * mean.value:.6f} ± {factor * mean.error:.6f}"
