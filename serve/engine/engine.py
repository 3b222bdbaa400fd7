"""The engine's thread: takes requests in, computes what the scheduler plans, hands tokens out."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

from tuneserve.arrays import Floats
from tuneserve.divergence import token_nll
from tuneserve.errors import UsageError
from tuneserve.files import cache_directory, sha256_file
from tuneserve.llama import LlamaModel, TokenBatch, backend, physical_cores, served_context
from tuneserve.llama.context import MAX_SEQUENCES, NoRoomError
from tuneserve.llama.lora import load_adapter, use_adapter
from tuneserve.llama.vocabularies import can_be_cut, check_draft
from tuneserve.serve.engine.activation import adapter_key
from tuneserve.serve.engine.adapters import AdapterFile, AdapterRegistry, free_all
from tuneserve.serve.engine.background import Patience
from tuneserve.serve.engine.delivery import Delivery
from tuneserve.serve.engine.draft_model import DraftModel
from tuneserve.serve.engine.draft_rounds import DraftRounds
from tuneserve.serve.engine.drawing import token_logprob
from tuneserve.serve.engine.embedding import EMBEDDING_CONTEXT, Embedder, EmbeddingJob
from tuneserve.serve.engine.kv_cache import (
    WORTH_WAITING,
    WORTH_WAITING_OFFLINE,
    KVCacheManager,
    PrefixLimits,
)
from tuneserve.serve.engine.prefix_disk import DiskPrefixes
from tuneserve.serve.engine.prefix_identity import context_identity, folder_name
from tuneserve.serve.engine.request import IN_BACKGROUND, Generation, Request
from tuneserve.serve.engine.rows import RowDrawer
from tuneserve.serve.engine.scheduler import (
    EXPECTED_AT_ONCE,
    SCORED_AT_ONCE,
    SMALLEST_CHUNK,
    Chunk,
    PrefillBudget,
    Scheduler,
    answers_next,
    prompt_tokens,
)
from tuneserve.serve.engine.speculation import MOST_ANSWERS_ON_GPU, MOST_DRAFTED, Speculator
from tuneserve.serve.engine.types import (
    Completion,
    EngineError,
    EngineStats,
    Event,
    FinishReason,
    NotCausalError,
    PromptTooLongError,
    QueueFullError,
    SamplingParams,
    TextTooLongError,
    UnavailableError,
)
from tuneserve.settings import ServeSettings

logger = logging.getLogger("tuneserve.engine")

SHARE_BESIDE_RUNNING = 0.25
"""Cells that cached prefixes may take on a CPU while requests run, as a share of the running ones'
cells."""

CELLS_BESIDE_RUNNING_ON_GPU = 2048
CELLS_BESIDE_EACH_ON_GPU = 512
"""The same on a GPU, in cells, and for each running request: beside one answer alone, whose steps
are the shortest, they take most of its speed."""

TOKENS_OF_A_STEP = 64
"""Tokens of prompts that `step_seconds` are for: a model of 70B reads one a second on two cores."""

NEVER = -1e9
"""Added to a logit: the token is chosen only where a grammar allows no other."""


SURELY_AHEAD = 3
"""So many steps in a row are not a thread that was held up for a moment."""


@dataclass(frozen=True, slots=True)
class Errand:
    """Work for the engine's thread between two steps."""

    work: Callable[[], None]
    done: concurrent.futures.Future[None] = field(default_factory=concurrent.futures.Future)

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


Arrival = Request | EmbeddingJob | Errand


class Engine:
    """A model and a context that answers many requests at once. See the package's docstring.

    `adapters` are LoRA GGUFs by name, for `submit(…, adapter=name)`; `lora` is one that belongs to
    the model itself: it is on wherever no other is.
    `after_step` is called in the engine's thread when the events delivered since the last call
    are to be passed on: first tokens and ends after their step, others within TOGETHER_SECONDS
    unless a step takes longer.
    `steady`: `generate` gives the same answers to the same prompts each time: the chunks of prompts
    do not depend on the clock, nothing is speculated, and no prefix of earlier calls is cached.
    Such an engine takes expected answers.
    """

    def __init__(
        self,
        model_path: Path,
        settings: ServeSettings,
        *,
        adapters: Mapping[str, Path] | None = None,
        lora: Path | None = None,
        after_step: Callable[[], None] | None = None,
        steady: bool = False,
    ) -> None:
        self.settings = settings
        self._steady = steady
        draft = settings.draft if settings.drafts and not steady else None
        if draft is not None:
            check_draft(model_path, draft)
        self.model = LlamaModel(
            model_path,
            gpu_layers=settings.gpu_layers,
            tensor_split=settings.tensor_split,
            split_mode=settings.split_mode,
            main_gpu=settings.main_gpu,
            mmap=settings.mmap,
            mlock=settings.mlock,
        )
        sequences = min(MAX_SEQUENCES, settings.slots + max(8, settings.slots))
        with contextlib.ExitStack() as undone:
            undone.callback(self.model.close)
            self.adapters = AdapterRegistry(
                self.model,
                most=settings.max_adapters,
                most_bytes=int(settings.adapter_memory * (1 << 30)),
            )
            for name, path in (adapters or {}).items():
                with self.adapters.opened(path) as file:
                    self.adapters.load(name, file)
            self._lora = None if lora is None else load_adapter(self.model, lora)
            self._context = served_context(
                self.model,
                settings,
                n_ctx=settings.ctx,
                # Every running sequence has a token in a batch.
                n_batch=max(settings.batch, settings.slots),
                n_seq_max=sequences,
                # One row of logits per sequence and call is all that sampling needs, one for
                # each guess, and one for each token of a prompt that is scored.
                n_outputs_max=sequences
                + SCORED_AT_ONCE
                + EXPECTED_AT_ONCE * steady
                + (0 if settings.speculate == "off" else MOST_DRAFTED),
                causal=not settings.embeddings,
            )
            undone.callback(self._context.close)
            if self._lora is not None:
                use_adapter(self._context, self._lora)
            self._embedder = (
                Embedder(self.model, settings, self._lora) if settings.embeddings else None
            )
            self._disk = self._make_disk(lora, steady=steady)
            self._draft = self._make_draft(draft)
            undone.pop_all()
        self._adapter_in_use: str | None = None
        self.limit = min(self._context.cells, self.model.n_ctx_train)
        self._cache = KVCacheManager(
            self._context,
            cells=self._context.cells,
            sequences=sequences,
            limits=_prefix_limits(settings, self._context.cells),
            can_share=can_be_cut(self.model),
            disk=self._disk,
            worth_waiting=WORTH_WAITING_OFFLINE if steady else WORTH_WAITING,
        )
        self._batch = TokenBatch(self._context.n_batch)
        first = self._context.n_batch if steady else settings.micro_batch
        self._prefill = PrefillBudget(self._context.n_batch, first, adapts=not steady)
        self._speculator = self._make_speculator()
        self._scheduler = Scheduler(
            self._cache,
            slots=settings.slots,
            batch_tokens=self._context.n_batch,
            prefill=self._prefill,
            queue_seconds=settings.queue_seconds,
            answer_seconds=settings.answer_seconds,
            speculator=self._speculator,
        )
        # On a CPU llama.cpp's own threads wait for the next step on the cores: others gain nothing.
        threads = (settings.threads or physical_cores()) if _on_gpu(settings) else 1
        self._rows = RowDrawer(self.model, threads)
        self._pieces: dict[int, bytes | None] = {}
        self._delivery = Delivery(after_step)
        self._ahead = 0  # steps in a row that were still computed when llama_decode returned
        self._inbox: queue.SimpleQueue[Arrival | None] = queue.SimpleQueue()
        self._embeddings: deque[EmbeddingJob] = deque()
        self._embedding_patience = Patience(time.monotonic)
        self._lock = threading.Lock()
        self._arriving = threading.Lock()
        self._queued = 0
        self._behind = 0
        self._accepting = True
        self.failure: EngineError | None = None
        """Why the engine stopped working, if it did."""
        self._stopping = False
        self._step_seconds = float(settings.step_seconds)
        self.step_limit = self._step_seconds
        """Seconds that the step at hand may take."""
        self._step_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- called from any thread ---------------------------------------------------------------

    def submit(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        adapter: str | None = None,
        on_event: Callable[[Event], None] | None = None,
        stream: bool = False,
    ) -> Generation:
        """Queue a prompt (token ids). `on_event` is called in the engine's thread with a Delta
        for every step (only if `stream`), then with the Completion or an EngineError.

        Raises PromptTooLongError, QueueFullError, NotCausalError, EngineError; a grammar
        that fails on the way is the GrammarFailedError of the result.
        """
        self._check_queue()
        return self._enqueue(prompt, sampling, adapter=adapter, on_event=on_event, stream=stream)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams | Sequence[SamplingParams],
        *,
        adapter: str | None = None,
        on_done: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """Answer all prompts; results in their order. `on_done` is called in the engine's
        thread; what it raises is raised here, and the other prompts are given up. The queue limit
        does not apply."""
        each = [sampling] * len(prompts) if isinstance(sampling, SamplingParams) else list(sampling)
        raised: list[Exception] = []

        def tell(index: int, event: Event) -> None:
            if on_done is None or raised or not isinstance(event, Completion):
                return
            try:
                on_done(index, event)
            except Exception as error:  # the caller's own fault, not the engine's
                raised.append(error)

        generations: list[Generation] = []
        try:
            with self._arriving:
                for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
                    listener = partial(tell, index)
                    generations.append(
                        self._enqueue(prompt, one, adapter=adapter, on_event=listener, stream=False)
                    )
            results = []
            for generation in generations:
                results.append(generation.result())
                if raised:
                    raise raised[0]
            return results
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise

    def embed(self, texts: Sequence[Sequence[int]]) -> concurrent.futures.Future[list[list[float]]]:
        """The mean of the last hidden states of each text (token ids), of length 1. Cancelling the
        future ends it after the text at hand.

        Raises TextTooLongError, QueueFullError, EngineError; needs settings.embeddings.
        """
        self._check_open()
        if self._embedder is None:
            raise EngineError("embeddings are off")
        limit = self.longest_text
        longest = max(len(text) for text in texts)
        if longest > limit:
            raise TextTooLongError(longest, limit)
        self._check_queue()
        job = EmbeddingJob(texts)
        self._count_in(job)
        return job.future

    def load_adapter(self, name: str, path: Path, *, replace: bool = False) -> AdapterFile:
        """Serve a LoRA GGUF under a name, from the next request on; returns what was loaded.

        The file is copied and checked in the caller's thread; running answers wait only while
        llama.cpp takes the copy. `replace`: an adapter of this name gives way to it; requests that
        have begun with the former one end with it.

        Raises UsageError if it is no adapter of this model, the name is taken or there are too
        many; TuneserveError if llama.cpp can't load it; EngineError.
        """
        self._check_open()
        with self.adapters.opened(path) as file:
            self._run_between_steps(partial(self.adapters.load, name, file, replace=replace))
        return file

    def unload_adapter(self, name: str) -> None:
        """Take no more requests for an adapter. It and its cached prefixes are freed when those
        that have begun have ended. Raises UnknownAdapterError, EngineError."""
        self._check_open()
        self.adapters.unload(name)
        # The engine's thread may sleep: it is woken to free what nobody uses.
        self._inbox.put(Errand(self._free_unused_adapters))

    def _run_between_steps(self, work: Callable[[], None]) -> None:
        errand = Errand(work)
        self._inbox.put(errand)
        while True:
            try:
                return errand.done.result(1.0)
            except TimeoutError:
                if not self._thread.is_alive():
                    raise UnavailableError("the server is shutting down") from None

    @property
    def most_expected(self) -> int:
        """Tokens that an expected answer may have; 0: none is taken. They are computed behind the
        prompt, and those that the answer has not are forgotten again."""
        if not self._steady or not can_be_cut(self.model):
            return 0
        return min(EXPECTED_AT_ONCE, self._context.n_batch)

    @property
    def longest_text(self) -> int:
        """Tokens of a text that `embed` takes at most."""
        return min(EMBEDDING_CONTEXT, self.model.n_ctx_train)

    @property
    def is_open(self) -> bool:
        """Are requests taken?"""
        return self._accepting and self.failure is None and not self.stalled

    @property
    def is_running(self) -> bool:
        """Has its thread not ended?"""
        return self._thread.is_alive()

    @property
    def stalled(self) -> bool:
        """Does a step take longer than it may?"""
        since = self._step_since
        return since is not None and time.monotonic() - since > self.step_limit

    def refuse_new(self) -> None:
        """Take no more requests; those accepted go on."""
        self._accepting = False

    def stats(self) -> EngineStats:
        """What the engine is doing at this moment."""
        running = len(self._scheduler.running)
        return EngineStats(
            running=running,
            waiting=max(0, self._queued + self._behind - running),
            slots=self.settings.slots,
            cells_used=self._cache.used_cells,
            cells=self._context.cells,
            cached_prefixes=self._cache.cached_prefixes,
            preemptions=self._scheduler.preemptions,
            steps=self._scheduler.steps,
            drafted=dict(self._speculator.drafted) if self._speculator else {},
            accepted=dict(self._speculator.accepted) if self._speculator else {},
            draft_cells_used=self._draft.cells_used if self._draft else 0,
            draft_cells=self._draft.cells if self._draft else 0,
            draft_refused=self._draft.refused if self._draft else 0,
            draft_usable=self._draft is not None and self._draft.usable,
        )

    def _make_disk(self, lora: Path | None, *, steady: bool) -> DiskPrefixes | None:
        """What is kept on disk. The files' identities are those at the time they were loaded."""
        limit = self.settings.prefix_disk_bytes
        if not limit or steady or not can_be_cut(self.model):
            return None
        context = context_identity(self.model, self.settings, cells=self._context.cells)
        own = None if lora is None else sha256_file(lora)
        root = self.settings.prefix_directory or cache_directory() / "prefixes"
        # An adapter that is switched on takes the place of the model's own one.
        return DiskPrefixes(root, limit, lambda adapter: folder_name(context, adapter or own))

    def _make_speculator(self) -> Speculator | None:
        """None where nothing is speculated. Guesses that were wrong must be forgotten again."""
        kind = self.settings.speculate
        if kind == "off" or self._steady or not can_be_cut(self.model):
            return None
        always = kind == "always"
        rounds = None
        if self._draft is not None:
            rounds = DraftRounds(self._draft, most=self.settings.draft_tokens, always=always)
        return Speculator(
            always=always,
            most_answers=MOST_ANSWERS_ON_GPU if _on_gpu(self.settings) else None,
            rounds=rounds,
            n_vocab=self.model.n_vocab,
        )

    def _make_draft(self, path: Path | None) -> DraftModel | None:
        if path is None:
            return None
        if not can_be_cut(self.model):
            raise UsageError(
                "a draft model can't guess for this one: its memory is a recurrent state, and "
                "can't forget guesses",
                where=str(self.model.path),
                hint="Leave --draft out.",
            )
        limits = replace(_prefix_limits(self.settings, self.settings.ctx), ram_bytes=0)
        return DraftModel(path, self.settings, limits)

    def _check_open(self) -> None:
        if self.failure is not None:
            raise self.failure
        if not self._accepting:
            raise UnavailableError("the server is shutting down")
        if self.stalled:
            raise UnavailableError("a step of the engine hangs")

    def _check_queue(self) -> None:
        if IN_BACKGROUND.get():
            return
        with self._lock:
            if self._queued >= self.settings.max_queue + self.settings.slots:
                raise QueueFullError(
                    f"{self.settings.max_queue} requests are waiting already",
                    hint="Try again in a moment.",
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Take no more requests, and end those accepted with UnavailableError within a step."""
        self._accepting = False
        self._stopping = True
        self._inbox.put(None)

    def close(self) -> None:
        """`stop`, and free the model. Returns when the thread has ended."""
        self.stop()
        self._thread.join()
        self._rows.close()
        if self._disk is not None:
            self._disk.last()
            if self.failure is None:
                self._cache.store()
            self._disk.close()
        if self._embedder is not None:
            self._embedder.close()
        if self._draft is not None:
            self._draft.close()
        self._context.close()
        self.model.close()

    def _enqueue(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        adapter: str | None,
        on_event: Callable[[Event], None] | None,
        stream: bool,
    ) -> Generation:
        self._check_open()
        if not self._context.is_causal:
            raise NotCausalError("the model is for embeddings: it can't predict the next token")
        if not prompt:
            raise EngineError("the prompt is empty")
        if len(prompt) + len(sampling.expected) >= self.limit:
            raise PromptTooLongError(len(prompt) + len(sampling.expected), self.limit)
        if len(sampling.expected) > self.most_expected:
            raise EngineError(f"an expected answer may have {self.most_expected} tokens")
        if sampling.ignore_end:
            never = dict.fromkeys(self.model.end_tokens, NEVER)
            sampling = replace(sampling, logit_bias={**sampling.logit_bias, **never})
        active = None if adapter is None else self.adapters.begin(adapter, prompt)
        generation = Generation(on_event, is_base=active is None)
        request = Request(
            prompt,
            sampling,
            generation,
            limit=self.limit,
            adapter=active,
            stream=stream,
            background=IN_BACKGROUND.get(),
        )
        # The shapes of batches, and with them the last digits of logits, follow the clock where
        # speculation must pay; who gives a seed wants the answer to repeat.
        if self._speculator is not None and (
            sampling.seed is None or self.settings.speculate == "always"
        ):
            request.drafter = self._speculator.drafter(request.tokens, sampling)
        self._count_in(request)
        return generation

    def _count_in(self, arrived: Request | EmbeddingJob) -> None:
        """Put it into the inbox."""
        self._count(arrived, 1)
        self._inbox.put(arrived)

    def _count(self, one: Request | EmbeddingJob, more: int) -> None:
        """What is in the background takes no place in the queue from others."""
        with self._lock:
            if one.background:
                self._behind += more
            else:
                self._queued += more

    # -- the engine's thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_in():
                self.step_limit, self._step_since = self._step_seconds, time.monotonic()
                self._step()
                self._step_since = time.monotonic()
                self._free_unused_adapters()
                self._embed_next()
                self._step_since = None
            self._end_all(UnavailableError("the server is shutting down"))
        except Exception as error:
            logger.exception("the engine failed")
            self.failure = error if isinstance(error, EngineError) else EngineError(str(error))
            self._end_all(self.failure)

    def _take_in(self) -> bool:
        """Move new requests to the queue; sleep while there is nothing to do. False: stop."""
        slept = self._scheduler.is_idle and not self._embeddings
        if slept:
            self._hand_out_all()
            if self._steady:
                self._cache.clear_cached()
            self._accept(self._inbox.get())
        # The one that wakes a steady engine may be the first of many.
        if self._inbox.empty() and not (slept and self._steady):
            return not self._stopping
        # Prompts that `generate` puts in together are taken in together.
        with self._arriving, contextlib.suppress(queue.Empty):
            while not self._stopping:
                self._accept(self._inbox.get_nowait())
        return not self._stopping

    def _hand_out_all(self) -> None:
        """Deliver what was held back, too."""
        self._delivery.urgent = True
        self._delivery.hand_out()

    def _accept(self, arrived: Arrival | None) -> None:
        if isinstance(arrived, Errand):
            arrived.run()
        elif isinstance(arrived, Request):
            self._scheduler.add(arrived)
        elif isinstance(arrived, EmbeddingJob):
            self._embeddings.append(arrived)

    def _embed_next(self) -> None:
        """One text a step, so that running answers wait for no more than that; the requests take
        turns, so that one of many texts doesn't keep the others waiting."""
        if self._embeddings and self._embedder is not None:
            job = self._embeddings[0]
            if job.background:
                if self._scheduler.has_foreground and not self._embedding_patience.is_over:
                    self._embeddings.rotate(-1)
                    return
                self._embedding_patience.begin()
            self._hand_out_all()
            if job.advance(self._embedder):
                self._embeddings.popleft()
                self._count(job, -1)
            else:
                self._embeddings.rotate(-1)

    def _step(self) -> None:
        for request, why in self._scheduler.expire():
            self._end(request, why)
        batch = self._scheduler.schedule()
        if not batch.chunks:
            return
        if tokens := prompt_tokens(batch.chunks):
            self.step_limit *= max(1.0, tokens / TOKENS_OF_A_STEP)
            # A step with prompt tokens takes long: deliver what was held back before it.
            self._hand_out_all()
        elif not self._computes_ahead:
            self._delivery.hand_out()
        started = time.monotonic()
        self._use_adapter(batch.adapter)
        ready = self._decode(batch.chunks)
        launched = time.monotonic()
        if self._computes_ahead:
            self._delivery.hand_out()
        if ready:
            logits = self._context.batch_logits(sum(1 + len(request.draft) for request in ready))
            waited = time.monotonic() - launched
            self._ahead = self._ahead + 1 if waited > launched - started else 0
            _expect(ready, logits)
            self._draw(ready, logits)
        self._observe(batch.chunks, time.monotonic() - started)

    @property
    def _computes_ahead(self) -> bool:
        """Does the device go on when llama_decode has returned, as GPUs do? Then what the last step
        has drawn is handed out meanwhile. On a CPU it would come later by a step."""
        return self._ahead >= SURELY_AHEAD

    def _observe(self, chunks: Sequence[Chunk], seconds: float) -> None:
        """A step with these chunks took that long, to the last token drawn."""
        self._prefill.observe(chunks, seconds)
        if self._speculator is None:
            return
        if not prompt_tokens(chunks):
            self._speculator.costs.observe(len(self._batch), seconds)
        elif len(self._batch) >= SMALLEST_CHUNK:
            self._speculator.costs.observe_prompt(len(self._batch), seconds)

    def _use_adapter(self, adapter: str | None) -> None:
        if adapter != self._adapter_in_use:
            own = self._lora if adapter is None else self.adapters.handle(adapter)
            use_adapter(self._context, own)
            self._adapter_in_use = adapter

    def _free_unused_adapters(self) -> None:
        """Free the adapters that were unloaded, with the prefixes computed with them."""
        unused = self.adapters.collect()
        if not unused:
            return
        self._context.synchronize()
        if self._adapter_in_use in unused:
            self._use_adapter(None)
        for key in unused:
            self._cache.drop_cached(key)
        free_all(unused)

    def _decode(self, chunks: Sequence[Chunk]) -> list[Request]:
        """Compute the chunks and drafts; returns the requests whose next token can be drawn, in the
        order of their rows of logits: one each, and one more for each token of its draft."""
        batch = self._batch
        batch.clear()
        ready = answers_next(chunks)
        if ready:
            batch.add_each(
                [request.tokens[-1] for request in ready],
                [request.computed for request in ready],
                [request.sequence for request in ready],
            )
        for request, count in chunks[len(ready) :]:
            tokens = request.tokens[request.computed : request.computed + count]
            draft = request.draft
            complete = count == request.pending
            draws = complete and request.sampling.max_tokens != 0
            outputs = count if request.scored_pending else (1 + len(draft)) * draws
            batch.add([*tokens, *draft], request.computed, request.sequence, outputs=outputs)
            if draws:
                ready.append(request)
        try:
            self._context.decode(batch)
        except NoRoomError as error:
            free = self._cache.free_cells
            raise EngineError(f"{error.message}, though {free} cells are free") from error
        request, count = chunks[-1]
        if request.scored_pending:
            before = sum(1 + len(one.draft) for one in ready)
            self._score(request, self._context.batch_logits(before + count)[before:])
        self._scheduler.computed(chunks)
        for request, _ in chunks:
            if request.pending == 0 and request.sampling.max_tokens == 0:
                self._scheduler.finish(request)
                self._end(request, "length")
        return ready

    def _score(self, request: Request, rows: Floats) -> None:
        """Note what the model thinks of the prompt's tokens behind those that `rows` are of."""
        wanted = request.sampling.prompt_logprobs or 0
        following = request.tokens[request.computed + 1 :]
        request.score(
            [token_logprob(row, token, wanted) for row, token in zip(rows, following, strict=False)]
        )

    def _draw(self, ready: Sequence[Request], logits: Floats) -> None:
        """Add to each request what is drawn from its rows of logits."""
        for request, tokens in zip(ready, self._rows.draw(ready, logits), strict=True):
            why: FinishReason | EngineError | None = None
            before = request.generated
            if not before:
                self._delivery.urgent = True
            for drawn in tokens:
                if isinstance(drawn, EngineError):
                    why = drawn  # The request's own grammar or logits: the others go on.
                    break
                token, logprob = drawn
                why = request.advance(token, self._piece(token, request.sampling), logprob)
                if why is not None:
                    break
            if request.draft:
                self._scheduler.settle(request, max(0, request.generated - before - 1))
            self._delivery.grown(request)
            if why is not None:
                self._scheduler.finish(request)
                self._end(request, why)

    def _piece(self, token: int, sampling: SamplingParams) -> bytes | None:
        """A token's bytes as shown in an answer; None for an end token."""
        if token in sampling.stop_tokens:
            return None
        if token not in self._pieces:
            ends = self.model.is_end(token)
            self._pieces[token] = None if ends else self.model.token_bytes(token, special=False)
        piece = self._pieces[token]
        if token in sampling.shown and piece is not None:
            return self.model.token_bytes(token)
        return piece

    def _end(self, request: Request, why: FinishReason | EngineError) -> None:
        """The end of a request that the scheduler has let go."""
        self._count(request, -1)
        self.adapters.end(adapter_key(request.adapter))
        self._delivery.ended(request, why)

    def _end_all(self, why: EngineError) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._accept(self._inbox.get_nowait())
        for request in [*self._scheduler.running, *self._scheduler.waiting]:
            self._scheduler.finish(request)
            self._end(request, why)
        for job in self._embeddings:
            job.fail(why)
            self._count(job, -1)
        self._embeddings.clear()
        self._hand_out_all()


def _expect(ready: Sequence[Request], logits: Floats) -> None:
    """Note what the model thinks of the answers that are expected of it."""
    first = 0
    for request in ready:
        rows = logits[first : first + 1 + len(request.draft)]
        first += len(rows)
        if expected := request.expected:
            pairs = zip(rows, expected, strict=True)
            request.expect([-token_nll(row, token) for row, token in pairs])


def _prefix_limits(settings: ServeSettings, n_ctx: int) -> PrefixLimits:
    """How much of finished requests is cached.

    Their cells slow every step down. On a CPU eight running answers lost a third of their speed; on
    an H100, 8,192 such cells took one answer of an 8B model from 243 to 172 tokens/s. So a CPU
    offloads prefixes to RAM. A GPU, which computes a prefix quickly, keeps few and drops the
    rest."""
    on_gpu = _on_gpu(settings)
    return PrefixLimits(
        idle_cells=int(settings.prefix_share * n_ctx),
        share_beside_running=0.0 if on_gpu else SHARE_BESIDE_RUNNING,
        cells_beside_running=CELLS_BESIDE_RUNNING_ON_GPU if on_gpu else 0,
        cells_beside_each=CELLS_BESIDE_EACH_ON_GPU,
        ram_bytes=0 if on_gpu else int(settings.prefix_ram * (1 << 30)),
    )


def _on_gpu(settings: ServeSettings) -> bool:
    return settings.gpu_layers != 0 and bool(backend().llama_supports_gpu_offload())
