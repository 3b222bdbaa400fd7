"""Works through batches behind everybody else's requests.

Each line is a request to the application itself, so that every path answers as it does over HTTP;
the engine computes it while it has nothing else to do. Batches share the places: as many lines are
on the way as the engine has slots.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from tuneserve.console import say
from tuneserve.serve.api.batches.files import new_id
from tuneserve.serve.api.batches.inner import Answer, ask
from tuneserve.serve.api.batches.lines import Place, read_body, read_places
from tuneserve.serve.api.batches.store import BatchStore, Results, StorageFullError, StoredBatch
from tuneserve.serve.api.batches.types import BatchErrors, BatchProblem, Status
from tuneserve.serve.api.strict_json import JsonLimits
from tuneserve.serve.engine.request import IN_BACKGROUND

logger = logging.getLogger("tuneserve.serve")

BUSY = frozenset({429, 503})
"""Statuses that say nothing about the request: it is asked again."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
DISK_WAIT = 30.0
"""Seconds until a batch is tried again that could not be written."""
"""Seconds before a request is asked again; they double each time."""

NOT_DONE: dict[str, tuple[str, str]] = {
    "expired": ("batch_expired", "The completion window ended before this request was answered."),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was answered."),
}


class BatchRunner:
    """The tasks of the batches that have not ended. Belongs to the event loop."""

    def __init__(
        self, store: BatchStore, app: ASGIApp, *, places: int, longest: int, limits: JsonLimits
    ) -> None:
        """`places` lines are asked at a time; a line has at most `longest` bytes, and its request
        keeps the `limits`."""
        self._store = store
        self._app = app
        self._places = asyncio.Semaphore(places)
        self._longest = longest
        self._limits = limits
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._results: dict[str, Results] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Go on with what has not ended; at the end of the block stop where the work is."""
        unfinished = self._store.unfinished()
        if unfinished:
            say(f"batches: {len(unfinished)} go on")
        for batch in unfinished:
            self.start(batch)
        try:
            yield
        finally:
            tasks = [*self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._store.files.close()

    def start(self, batch: StoredBatch) -> None:
        """Begin to work through a batch, or go on with it."""
        task = asyncio.create_task(self._run(batch))
        self._tasks[batch["id"]] = task
        task.add_done_callback(lambda _: self._tasks.pop(batch["id"], None))

    def cancel(self, batch: StoredBatch) -> None:
        """End a batch whose status is 'cancelling' by now."""
        if working := self._working.get(batch["id"]):
            working.cancel()

    def count(self, batch: StoredBatch) -> None:
        """Bring the batch's counts up to date."""
        if results := self._results.get(batch["id"]):
            results.tell(batch)

    async def _run(self, batch: StoredBatch) -> None:
        told = False
        try:
            while not await self._tried(batch, tell=not told):
                told = True
                await asyncio.sleep(DISK_WAIT)
        finally:
            self._results.pop(batch["id"], None)

    async def _tried(self, batch: StoredBatch, *, tell: bool) -> bool:
        """Bring a batch to its end; False if the disk takes nothing now."""
        try:
            try:
                await self._work(batch)
            except StorageFullError:
                message = "Batches have no more room; delete files."
                await self._fail(batch, [_problem("storage_full", message)])
            except OSError:
                raise
            except Exception:
                logger.exception("a batch failed: %s", batch["id"])
                message = "The server's log has the reason."
                await self._fail(batch, [_problem("server_error", message)])
        except OSError as error:
            if tell:
                say(f"warning: {batch['id']} waits, nothing can be written: {error.strerror}")
            return False
        return True

    async def _work(self, batch: StoredBatch) -> None:
        path = self._store.files.path(batch["input_file_id"])
        places, problems = await asyncio.to_thread(
            read_places, path, batch["endpoint"], longest=self._longest, limits=self._limits
        )
        if problems:
            await self._fail(batch, problems)
            return
        results = await asyncio.to_thread(self._store.results, batch)
        self._results[batch["id"]] = results
        batch["request_counts"]["total"] = len(places)
        outcome = batch.get("outcome")
        await asyncio.to_thread(self._store.begin, batch)
        if batch["status"] == "cancelling":
            outcome = "cancelled"
        if outcome is None:
            outcome = await self._answer_all(batch, places, results)
        if outcome in NOT_DONE:
            await asyncio.to_thread(_write_undone, places, results, outcome)
        self.count(batch)
        await asyncio.to_thread(self._store.finish, batch, results, outcome)
        counts = batch["request_counts"]
        say(f"{batch['id']} {outcome}: {counts['completed']} answered, {counts['failed']} not")

    async def _answer_all(
        self, batch: StoredBatch, places: Sequence[Place], results: Results
    ) -> Status:
        """Ask for every line that is not done; returns how the batch ends."""
        working = asyncio.create_task(self._answer_lines(batch, places, results))
        self._working[batch["id"]] = working
        left = batch["expires_at"] - time.time()
        try:
            async with asyncio.timeout(max(0.0, left)):
                await working
        except TimeoutError:
            return "expired"
        except asyncio.CancelledError:
            if batch["status"] != "cancelling":
                raise
            return "cancelled"
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await working
            del self._working[batch["id"]]
        return "completed"

    async def _answer_lines(
        self, batch: StoredBatch, places: Sequence[Place], results: Results
    ) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for place in places:
                    if place.custom_id in results.done:
                        continue
                    await self._places.acquire()
                    task = group.create_task(self._answer_line(batch, place, results))
                    task.add_done_callback(lambda _: self._places.release())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _answer_line(self, batch: StoredBatch, place: Place, results: Results) -> None:
        IN_BACKGROUND.set(True)
        path = self._store.files.path(batch["input_file_id"])
        answer = await self._answered(batch["endpoint"], path, place)
        failed = answer.status >= 400
        line = {
            "id": new_id("batch_req_"),
            "custom_id": place.custom_id,
            "response": {
                "status_code": answer.status,
                "request_id": answer.request_id,
                "body": json.loads(answer.body),
            },
            "error": None,
        }
        await asyncio.to_thread(results.append, line, failed=failed)

    async def _answered(self, endpoint: str, path: Path, place: Place) -> Answer:
        try:
            body = await asyncio.to_thread(read_body, path, place)
            content = json.dumps(body).encode()
        except (ValueError, RecursionError):
            # It could be read when the batch was made, from a shorter stack.
            return _error(400, "invalid_request_error", "It is nested too deeply.")
        if body.get("stream"):
            return _error(400, "invalid_request_error", "A batch has no streams.")
        return await self._ask(endpoint, content)

    async def _ask(self, endpoint: str, body: bytes) -> Answer:
        wait = FIRST_WAIT
        while True:
            try:
                answer = await ask(self._app, endpoint, body)
            except Exception:
                logger.exception("defect while answering a line of a batch")
                return _error(500, "server_error", "The server failed; its log has the reason.")
            if answer.status not in BUSY:
                return answer
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def _fail(self, batch: StoredBatch, problems: list[BatchProblem]) -> None:
        """The batch ends; what was answered is kept."""
        batch["errors"] = BatchErrors(object="list", data=problems)
        results = await asyncio.to_thread(self._store.results, batch)
        results.tell(batch)
        say(f"{batch['id']} failed: {problems[0]['message']}")
        await asyncio.to_thread(self._store.finish, batch, results, "failed")


def _write_undone(places: Sequence[Place], results: Results, outcome: str) -> None:
    """An error for each line that was not answered."""
    code, message = NOT_DONE[outcome]
    for place in places:
        if place.custom_id not in results.done:
            line: dict[str, Any] = {
                "id": new_id("batch_req_"),
                "custom_id": place.custom_id,
                "response": None,
                "error": {"code": code, "message": message},
            }
            results.append(line, failed=True)


def _error(status: int, kind: str, message: str) -> Answer:
    error = {"message": message, "type": kind, "param": None, "code": None}
    return Answer(status, "", bytearray(json.dumps({"error": error}).encode()))


def _problem(code: str, message: str) -> BatchProblem:
    return BatchProblem(code=code, message=message, line=None, param=None)
