"""The engine's thread: takes requests in, steps the batch, hands tokens out."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tuneserve.closing import Closing
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel, backend
from tuneserve.serve.engine.adapters import load_adapters
from tuneserve.serve.engine.context import MAX_SEQUENCES, SequenceContext, TokenBatch
from tuneserve.serve.engine.embedding import EMBEDDING_CONTEXT, Embedder, EmbeddingJob
from tuneserve.serve.engine.sampling import TokenSampler, token_logprob
from tuneserve.serve.engine.schedule import PromptPace, plan_batch
from tuneserve.serve.engine.store import Keeping, SequenceStore, Source
from tuneserve.serve.engine.task import Task
from tuneserve.serve.engine.types import (
    Completion,
    EngineError,
    Event,
    Figures,
    FinishReason,
    PromptTooLongError,
    QueueFullError,
    Sampling,
    TextTooLongError,
    UnavailableError,
)
from tuneserve.settings import ServeSettings

logger = logging.getLogger("tuneserve.engine")

SHARE_BESIDE_RUNNING = 0.25
"""Cells of kept prefixes beside those of running requests: what they may cost at most."""

CELLS_BESIDE_RUNNING_ON_GPU = 2048

TOGETHER_SECONDS = 0.02
"""Tokens that follow each other faster than this are handed out together: waking the listener for
each of them would cost more than anybody could see."""


class Generation:
    """A submitted request: wait for its result, or cancel it. Safe from any thread."""

    def __init__(self, on_event: Callable[[Event], None] | None) -> None:
        self._on_event = on_event
        self._done = threading.Event()
        self._outcome: Completion | EngineError | None = None
        self._task: Task | None = None

    def cancel(self) -> None:
        """End it within a step; its result has finish_reason 'cancelled'."""
        if self._task is not None:
            self._task.cancelled = True

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the answer. Raises EngineError if the engine failed, TimeoutError."""
        if not self._done.wait(timeout):
            raise TimeoutError(f"no answer within {timeout} s")
        if isinstance(self._outcome, EngineError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Completion | EngineError):
            self._outcome = event
            self._done.set()
        if self._on_event is not None:
            self._on_event(event)


class Engine(Closing):
    """A model and a context that answers many requests at once. See the package's docstring.

    `adapters` are LoRA GGUFs by name, for `submit(…, adapter=name)`.
    `after_step` is called in the engine's thread when the events delivered since the last call
    are to be passed on: first tokens and ends after their step, others within TOGETHER_SECONDS
    unless a step takes longer.
    `steady`: `generate` gives the same answers to the same prompts each time: they are read in
    pieces that don't depend on the clock, and nothing is kept of earlier ones.
    """

    def __init__(
        self,
        model_path: Path,
        settings: ServeSettings,
        *,
        adapters: Mapping[str, Path] | None = None,
        after_step: Callable[[], None] | None = None,
        steady: bool = False,
    ) -> None:
        self.settings = settings
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
            self._adapters = load_adapters(self.model, adapters or {})
            self._context = SequenceContext(self.model, settings, sequences=sequences)
            undone.callback(self._context.close)
            self._embedder = Embedder(self.model, settings) if settings.embeddings else None
            undone.pop_all()
        self._adapter_in_use: str | None = None
        self._served: dict[str | None, int] = {}
        self._steps = 0
        self.limit = min(self._context.n_ctx, self.model.n_ctx_train)
        self._store = SequenceStore(
            self._context,
            sequences=sequences,
            keeping=_keeping(settings, self._context.n_ctx),
            can_share=_can_share_prefixes(self.model),
        )
        self._batch = TokenBatch(self._context.n_batch)
        self._steady = steady
        first = self._context.n_batch if steady else settings.micro_batch
        self._pace = PromptPace(self._context.n_batch, first, adapts=not steady)
        self._pieces: dict[int, bytes | None] = {}
        self._after_step = after_step
        self._told = 0.0
        self._urgent = False
        self._inbox: queue.SimpleQueue[Task | EmbeddingJob | None] = queue.SimpleQueue()
        self._waiting: deque[Task] = deque()
        self._running: list[Task] = []
        self._embeddings: deque[EmbeddingJob] = deque()
        self._lock = threading.Lock()
        self._arriving = threading.Lock()
        self._queued = 0
        self._accepting = True
        self._failure: EngineError | None = None
        self.put_back_count = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- called from any thread ---------------------------------------------------------------

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        adapter: str | None = None,
        on_event: Callable[[Event], None] | None = None,
        stream: bool = False,
    ) -> Generation:
        """Queue a prompt (token ids). `on_event` is called in the engine's thread with a Delta
        for every step (only if `stream`), then with the Completion or an EngineError.

        Raises PromptTooLongError, QueueFullError, EngineError; UsageError for a bad grammar
        comes as the EngineError of the result.
        """
        self._check_queue()
        return self._enqueue(prompt, sampling, adapter=adapter, on_event=on_event, stream=stream)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        *,
        adapter: str | None = None,
        on_done: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """Answer all prompts; results in their order. `on_done` is called in the engine's
        thread. The queue limit does not apply."""
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)

        def listener(index: int) -> Callable[[Event], None] | None:
            if on_done is None:
                return None

            def tell(event: Event) -> None:
                if isinstance(event, Completion):
                    on_done(index, event)

            return tell

        generations: list[Generation] = []
        try:
            with self._arriving:
                for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
                    tell = listener(index)
                    generations.append(
                        self._enqueue(prompt, one, adapter=adapter, on_event=tell, stream=False)
                    )
            return [generation.result() for generation in generations]
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise

    @property
    def failure(self) -> EngineError | None:
        """Why the engine stopped working, if it did."""
        return self._failure

    def embed(self, texts: Sequence[Sequence[int]]) -> concurrent.futures.Future[list[list[float]]]:
        """The mean of the last hidden states of each text (token ids), of length 1. Cancelling the
        future ends it after the text at hand.

        Raises TextTooLongError, QueueFullError, EngineError; needs settings.embeddings.
        """
        self._check_open()
        if self._embedder is None:
            raise EngineError("embeddings are off")
        limit = min(EMBEDDING_CONTEXT, self.model.n_ctx_train)
        longest = max(len(text) for text in texts)
        if longest > limit:
            raise TextTooLongError(longest, limit)
        self._check_queue()
        job = EmbeddingJob(texts)
        with self._lock:
            self._queued += 1
        self._inbox.put(job)
        return job.future

    @property
    def is_open(self) -> bool:
        """Are requests taken?"""
        return self._accepting and self._failure is None

    def refuse_new(self) -> None:
        """Take no more requests; those accepted go on."""
        self._accepting = False

    def figures(self) -> Figures:
        """What the engine is doing at this moment."""
        running = len(self._running)
        return Figures(
            running=running,
            waiting=max(0, self._queued - running),
            slots=self.settings.slots,
            cells_used=self._store.used_cells,
            cells=self._context.n_ctx,
            kept_prefixes=self._store.kept_prefixes,
            put_back=self.put_back_count,
            steps=self._steps,
        )

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._accepting:
            raise UnavailableError("the server is shutting down")

    def _check_queue(self) -> None:
        with self._lock:
            if self._queued >= self.settings.max_queue + self.settings.slots:
                raise QueueFullError(
                    f"{self.settings.max_queue} requests are waiting already",
                    hint="Try again in a moment.",
                )

    def close(self) -> None:
        """Take no more requests, end those accepted, free the model. Returns when the thread has
        ended."""
        self._accepting = False
        self._stopping = True
        self._inbox.put(None)
        self._thread.join()
        if self._embedder is not None:
            self._embedder.close()
        self._context.close()
        self.model.close()

    def _enqueue(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        adapter: str | None,
        on_event: Callable[[Event], None] | None,
        stream: bool,
    ) -> Generation:
        self._check_open()
        if adapter is not None and adapter not in self._adapters:
            raise EngineError(f"there is no adapter '{adapter}'")
        if not prompt:
            raise EngineError("the prompt is empty")
        if len(prompt) >= self.limit:
            raise PromptTooLongError(len(prompt), self.limit)
        generation = Generation(on_event)
        task = Task(
            prompt,
            sampling,
            adapter=adapter,
            limit=self.limit,
            deliver=generation._deliver,
            stream=stream,
        )
        generation._task = task
        with self._lock:
            self._queued += 1
        self._inbox.put(task)
        return generation

    # -- the engine's thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_in():
                self._step()
                self._embed_next()
                self._tell()
            self._end_all(UnavailableError("the server is shutting down"))
        except Exception as error:
            logger.exception("the engine failed")
            failure = error if isinstance(error, EngineError) else EngineError(str(error))
            self._failure = failure
            self._end_all(failure)
        self._tell()

    def _tell(self) -> None:
        """Let the listener pass on what was delivered, if it is time."""
        now = time.monotonic()
        if self._urgent or now - self._told >= TOGETHER_SECONDS:
            self._told = now
            self._urgent = False
            if self._after_step is not None:
                self._after_step()

    def _take_in(self) -> bool:
        """Move new requests to the queue; sleep while there is nothing to do. False: stop."""
        if not self._running and not self._waiting and not self._embeddings:
            if self._steady:
                self._store.drop_kept()
            self._accept(self._inbox.get())
        # Prompts that `generate` puts in together are taken in together.
        with self._arriving, contextlib.suppress(queue.Empty):
            while not self._stopping:
                self._accept(self._inbox.get_nowait())
        return not self._stopping

    def _accept(self, arrived: Task | EmbeddingJob | None) -> None:
        if isinstance(arrived, Task):
            self._waiting.append(arrived)
        elif isinstance(arrived, EmbeddingJob):
            self._embeddings.append(arrived)

    def _embed_next(self) -> None:
        """One text a step, so that running answers wait for no more than that; the requests take
        turns, so that one of many texts doesn't keep the others waiting."""
        if self._embeddings and self._embedder is not None:
            if self._embeddings[0].advance(self._embedder):
                self._embeddings.popleft()
                self._count_out()
            else:
                self._embeddings.rotate(-1)

    def _count_out(self) -> None:
        with self._lock:
            self._queued -= 1

    def _step(self) -> None:
        self._drop_cancelled()
        self._steps += 1
        self._admit()
        self._store.tidy()
        plan = self._plan()
        if not plan:
            return
        prompt_tokens = sum(count for _, count in plan if count > 1)
        if prompt_tokens:
            # A step that takes long begins: what was held back would wait for its end.
            self._urgent = True
            self._tell()
        started = time.monotonic()
        rows = self._decode(plan)
        if rows:
            self._sample(rows)
        self._pace.observe(prompt_tokens, time.monotonic() - started)

    def _drop_cancelled(self) -> None:
        for task in [task for task in self._running if task.cancelled]:
            self._end(task, "cancelled")
        longest = self.settings.answer_seconds
        if longest:
            late = [task for task in self._running if task.age > longest]
            # One that was put back waits in the middle of its answer.
            begun = [task for task in self._waiting if task.generated and task.age > longest]
            for task in begun:
                self._waiting.remove(task)
            for task in [*late, *begun]:
                self._end(task, "length")
        for task in [task for task in self._waiting if task.cancelled]:
            self._waiting.remove(task)
            self._end(task, "cancelled")
        patience = self.settings.queue_seconds
        for task in [task for task in self._waiting if task.waited > patience]:
            self._waiting.remove(task)
            self._end(task, UnavailableError(f"no slot became free within {patience} s"))

    def _admit(self) -> None:
        """Give waiting tasks a sequence, in order, as long as slots and cells last."""
        while self._waiting and len(self._running) < self.settings.slots:
            task = self._waiting[0]
            source = self._make_room_for(task)
            if source is None:
                return
            self._waiting.popleft()
            if task.sampler is None:
                try:
                    task.sampler = TokenSampler(self.model, task.sampling)
                except TuneserveError as error:
                    self._end(task, EngineError(error.render()))
                    continue
            task.admitted(*self._store.open(source))
            self._running.append(task)

    def _make_room_for(self, task: Task) -> Source | None:
        """Where the task begins, its cells being free; None while too few are."""
        # A little room beyond the prompts, or the newcomer would be put back at once.
        reserve = 8 * len(self._running) + 1 if self._running else 0
        found = self._store.find_source(task.adapter, task.tokens, self._running)
        # A long beginning that shares little with the prompt may be what takes its room.
        for source in (found, Source()):
            needed = max(len(task.tokens) - source.shared + reserve, source.saved_tokens)
            if self._store.make_room(needed, spare=source.sequence):
                return source
        return None

    def _plan(self) -> list[tuple[Task, int]]:
        """The next batch, after making room for it: kept prefixes go first, then the youngest
        task gives its cells back and waits."""
        while self._running:
            beside_streams = any(task.generated for task in self._running)
            plan = plan_batch(
                self._same_adapter(),
                room=self._context.n_batch,
                chunk=self._pace.chunk(beside_streams=beside_streams),
            )
            if self._store.make_room(sum(count for _, count in plan)):
                return plan
            self._put_back(self._running[-1])
        return []

    def _same_adapter(self) -> list[Task]:
        """The running tasks of one adapter, for a batch can't mix them: of the one that was
        served longest ago. llama.cpp is switched to it."""
        present = {task.adapter for task in self._running}
        if len(present) > 1 or self._adapter_in_use not in present:
            adapter = min(present, key=lambda name: self._served.get(name, 0))
            if adapter != self._adapter_in_use:
                self._context.use_adapter(None if adapter is None else self._adapters[adapter])
                self._adapter_in_use = adapter
        self._served[self._adapter_in_use] = self._steps
        if len(present) == 1:
            return self._running
        return [task for task in self._running if task.adapter == self._adapter_in_use]

    def _put_back(self, task: Task) -> None:
        self._running.remove(task)
        self._store.drop(task.sequence)
        task.put_back()
        self._waiting.appendleft(task)
        self.put_back_count += 1

    def _decode(self, plan: list[tuple[Task, int]]) -> list[tuple[Task, int]]:
        """Compute the plan; returns (task, batch index) of those whose next token can be drawn."""
        batch = self._batch
        batch.clear()
        ready = []
        for task, count in plan:
            tokens = task.tokens[task.computed : task.computed + count]
            complete = count == task.pending
            index = batch.add(tokens, task.computed, task.sequence, want_last=complete)
            if complete:
                ready.append((task, index))
        if not self._context.decode(batch):
            raise EngineError(
                f"llama.cpp found no room for {batch.count} tokens, "
                f"though {self._store.free_cells} cells are free"
            )
        for task, count in plan:
            task.computed += count
            self._store.grew(task.sequence, count)
        return ready

    def _sample(self, ready: list[tuple[Task, int]]) -> None:
        logits = self._context.logits(len(ready))
        for row, (task, index) in zip(logits, ready, strict=True):
            assert task.sampler is not None
            token = task.sampler.sample(self._context, index, row)
            wanted = task.sampling.logprobs
            logprob = None if wanted is None else token_logprob(row, token, wanted)
            self._urgent |= not task.generated
            reason = task.advance(token, self._piece(token), logprob)
            if reason is not None:
                self._end(task, reason)

    def _piece(self, token: int) -> bytes | None:
        """A token's bytes as shown in an answer; None for an end token."""
        try:
            return self._pieces[token]
        except KeyError:
            ends = self.model.is_end(token)
            piece = None if ends else self.model.token_bytes(token, special=False)
            self._pieces[token] = piece
            return piece

    def _end(self, task: Task, why: FinishReason | EngineError) -> None:
        """Free what a task holds and deliver its end."""
        if task in self._running:
            self._running.remove(task)
            self._store.keep(task.sequence, task.adapter, task.tokens[: task.computed])
        if task.sampler is not None:
            task.sampler.close()
        self._count_out()
        self._urgent = True
        task.deliver(why if isinstance(why, EngineError) else task.finish(why))

    def _end_all(self, why: EngineError) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                arrived = self._inbox.get_nowait()
                if isinstance(arrived, Task):
                    self._waiting.append(arrived)
                elif isinstance(arrived, EmbeddingJob):
                    self._embeddings.append(arrived)
        for task in [*self._running, *self._waiting]:
            self._end(task, why)
        self._waiting.clear()
        for job in self._embeddings:
            job.fail(why)
            self._count_out()
        self._embeddings.clear()


def _keeping(settings: ServeSettings, n_ctx: int) -> Keeping:
    """Cells of finished requests slow every step down: on a CPU eight answers by a third, on an
    H100 8,192 of them one answer of an 8B model from 243 to 172 tokens/s. A CPU's are copied into
    RAM; a GPU, which soon computes a beginning again, keeps a few and forgets the rest."""
    on_gpu = settings.gpu_layers != 0 and bool(backend().llama_supports_gpu_offload())
    return Keeping(
        idle_cells=int(settings.prefix_share * n_ctx),
        share_beside_running=SHARE_BESIDE_RUNNING,
        cells_beside_running=CELLS_BESIDE_RUNNING_ON_GPU if on_gpu else 0,
        saved_bytes=0 if on_gpu else int(settings.prefix_ram * (1 << 30)),
    )


def _can_share_prefixes(model: LlamaModel) -> bool:
    """Can the model's memory be cut at any position? A recurrent state can't."""
    api = backend()
    return not (
        api.llama_model_is_recurrent(model.handle) or api.llama_model_is_hybrid(model.handle)
    )
