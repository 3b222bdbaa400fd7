"""Perplexity of a text, and KL divergence between two models on it, as llama-perplexity has them.

The text is tokenized once (BOS where the model wants it, special tokens not parsed) and cut into
chunks of `n_ctx` tokens, the rest dropped; each chunk's first token is replaced by BOS where the
vocabulary adds one; the second half of each chunk is scored, so that every token has a context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuneserve.arrays import Doubles, Floats, Ids
from tuneserve.bench.measure.numbers import check_numbers
from tuneserve.divergence import Divergence, RowWorkers, joined
from tuneserve.errors import UsageError
from tuneserve.files import check_regular, read_text
from tuneserve.llama import LlamaContext, LlamaModel, TokenBatch, served_context
from tuneserve.settings import ServeSettings

CHUNK_TOKENS = 512
BATCH = 2048

Tick = Callable[[int], None]
"""Called with the number of chunks that are done more."""


@dataclass(frozen=True)
class MeanError:
    """A mean over tokens and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class TextPerplexity:
    """exp of the mean negative log-likelihood of the scored tokens."""

    perplexity: MeanError
    chunks: int
    tokens: int


@dataclass(frozen=True)
class TextDivergence:
    """How a model (usually quantized) differs from its base (usually F16) on a text.

    `kld` is KL(base || model) in nats; `log_ratio` is ln(PPL / base PPL); `delta_p_rms` is the
    root mean square change of the right token's probability; `percentiles` are of the KLD.
    """

    perplexity: MeanError
    base_perplexity: MeanError
    log_ratio: MeanError
    correlation: float
    kld: MeanError
    percentiles: dict[str, float]
    delta_p: MeanError
    delta_p_rms: MeanError
    same_top: MeanError
    chunks: int
    tokens: int


def read_corpus(path: Path) -> str:
    """A text file without its last line feed, as llama-perplexity reads it: CR LF stays CR LF."""
    check_regular(path)
    return read_text(path, "text", newline="").removesuffix("\n")


def chunked(model: LlamaModel, text: str, n_ctx: int = CHUNK_TOKENS, *, where: str = "") -> Ids:
    """The text's token ids as [chunks, n_ctx]. Raises UsageError for fewer than two chunks."""
    return cut(model.tokenize(text, add_special=True, parse_special=False), n_ctx, where=where)


def cut(tokens: Sequence[int], n_ctx: int, *, where: str = "") -> Ids:
    """Token ids as [chunks, n_ctx], the rest dropped. UsageError for fewer than two chunks, saying
    `where` they are from."""
    count = len(tokens) // n_ctx
    if count < 2:
        raise UsageError(
            f"perplexity over chunks of {n_ctx} tokens needs {2 * n_ctx}, the text has "
            f"{len(tokens)}",
            where=where,
            hint="Take a longer text.",
        )
    return np.array(tokens[: count * n_ctx], dtype=np.int64).reshape(count, n_ctx)


def perplexity_context(
    model: LlamaModel, serve: ServeSettings, n_ctx: int = CHUNK_TOKENS, batch: int = BATCH
) -> LlamaContext:
    """A context that holds as many chunks side by side as a batch has room for."""
    sequences = max(1, batch // n_ctx)
    return served_context(
        model,
        serve,
        n_ctx=sequences * n_ctx,
        n_batch=sequences * n_ctx if batch >= n_ctx else batch,
        n_seq_max=sequences,
        kv_unified=False,
    )


def text_nll(context: LlamaContext, chunks: Ids, tick: Tick = lambda _: None) -> Doubles:
    """Negative log-likelihood of every scored token, [chunks, scored tokens]. Raises
    TuneserveError where one is no number."""
    losses = []
    with RowWorkers() as workers:
        for rows, targets in _forward(context, chunks):
            losses.append(workers.nll(rows, targets.ravel()).reshape(targets.shape))
            tick(len(targets))
    scored = np.concatenate(losses)[:, :-1]
    check_numbers(scored, context.model.path)
    return scored


def text_divergence(
    base: LlamaContext, other: LlamaContext, chunks: Ids, tick: Tick = lambda _: None
) -> Divergence:
    """Both models over the same chunks, in step, so that no logits have to be stored. Raises
    TuneserveError where one gives no numbers."""
    parts = []
    with RowWorkers() as workers:
        for (base_rows, targets), (rows, _) in zip(
            _forward(base, chunks), _forward(other, chunks), strict=True
        ):
            parts.append(workers.divergence(base_rows, rows, targets.ravel()))
            tick(len(targets))
    scored = np.ones((len(chunks), targets.shape[1]), dtype=np.bool_)
    scored[:, -1] = False
    found = joined(parts).where(scored.ravel())
    check_numbers(found.base_nll, base.model.path)
    check_numbers(found.nll, other.model.path)
    return found


def summarise_perplexity(losses: Doubles) -> TextPerplexity:
    """Perplexity of [chunks, scored tokens] losses; the error treats tokens as independent."""
    return TextPerplexity(_exp(_mean(losses.ravel())), len(losses), losses.size)


def summarise_divergence(found: Divergence, chunks: int) -> TextDivergence:
    """The figures of llama-perplexity --kl-divergence."""
    loss, base_loss = _mean(found.nll), _mean(found.base_nll)
    count = len(found.kld)
    covariance = float(np.cov(found.nll, found.base_nll, bias=True)[0, 1]) / (count - 1)
    variance = loss.error**2 + base_loss.error**2 - 2 * covariance
    delta_p = np.exp(-found.nll) - np.exp(-found.base_nll)
    square = _mean(delta_p**2)
    rms = math.sqrt(square.value)
    return TextDivergence(
        perplexity=_exp(loss),
        base_perplexity=_exp(base_loss),
        log_ratio=MeanError(loss.value - base_loss.value, math.sqrt(max(variance, 0.0))),
        correlation=covariance / (loss.error * base_loss.error),
        kld=_mean(found.kld),
        percentiles={
            f"{share:g} %": float(np.percentile(found.kld, share))
            for share in (0, 1, 5, 10, 50, 90, 95, 99, 99.9, 100)
        },
        delta_p=_mean(delta_p),
        delta_p_rms=MeanError(rms, 0.5 / rms * square.error if rms else 0.0),
        same_top=_mean(found.same_top.astype(np.float64)),
        chunks=chunks,
        tokens=count,
    )


def _forward(context: LlamaContext, chunks: Ids) -> Iterator[tuple[Floats, Ids]]:
    """For each batch of chunks the logits of their second halves, [chunks x half, n_vocab], valid
    until the next step, and the tokens that follow, [chunks, half]. The last position's successor
    is not in the chunk: 0 stands in its place, to be dropped."""
    n_ctx = chunks.shape[1]
    first = n_ctx // 2
    side_by_side = max(1, context.n_batch // n_ctx)
    inputs = chunks.copy()
    if context.model.adds_bos:
        inputs[:, 0] = context.model.bos
    batch = TokenBatch(context.n_batch)
    for start in range(0, len(chunks), side_by_side):
        context.clear()
        group = inputs[start : start + side_by_side]
        following = np.zeros((len(group), n_ctx - first), dtype=np.int64)
        following[:, :-1] = chunks[start : start + len(group), first + 1 :]
        yield _decode(context, batch, group, first), following


def _decode(context: LlamaContext, batch: TokenBatch, group: Ids, first: int) -> Floats:
    """Logits of the positions from `first` on, sequence after sequence."""
    n_ctx = group.shape[1]
    if batch.size >= group.size:
        batch.clear()
        for sequence, tokens in enumerate(group):
            batch.add(tokens, 0, sequence, outputs=n_ctx - first)
        context.decode(batch)
        return context.batch_logits(len(group) * (n_ctx - first))
    pieces = []
    for start in range(0, n_ctx, batch.size):
        tokens = group[0, start : start + batch.size]
        outputs = min(len(tokens), start + len(tokens) - first)
        batch.clear()
        batch.add(tokens, start, 0, outputs=outputs)
        context.decode(batch)
        if outputs > 0:
            pieces.append(context.batch_logits(outputs).copy())
    return np.concatenate(pieces)


def _mean(values: Doubles) -> MeanError:
    error = math.sqrt(float(values.var()) / (len(values) - 1))
    return MeanError(float(values.mean()), error)


def _exp(mean: MeanError) -> MeanError:
    value = math.exp(mean.value)
    return MeanError(value, value * mean.error)
