"""Paths of the batch API: /v1/files and /v1/batches."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from tuneserve.serve.api.batches.files import FileStore, page, told_of_the_disk
from tuneserve.serve.api.batches.runner import BatchRunner
from tuneserve.serve.api.batches.store import BatchStore, shown
from tuneserve.serve.api.batches.types import (
    ENDED,
    BatchList,
    BatchObject,
    BatchRequest,
    FileDeleted,
    FileList,
    FileObject,
)
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.json_route import json_router
from tuneserve.serve.api.middleware import key_in

FILES = "/v1/files"
BATCHES = "/v1/batches"
LARGEST_UPLOAD = 200_000_000
"""Bytes of an upload; OpenAI's limit."""

ENDPOINTS = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages",
)  # fmt: skip
UPLOADS_AT_ONCE = 4
MOST_FIELDS = 8
LONGEST_FIELD = 4096

Limit = Annotated[int, Query(ge=1, le=100)]
FileLimit = Annotated[int, Query(ge=1, le=10_000)]
After = Annotated[str | None, Query(max_length=64)]


def owner_of(request: Request, *, keyed: bool) -> str:
    """Whose files a request may see: those that came with the same API key."""
    if not keyed:
        return ""
    headers = dict(request.headers.raw)
    return hashlib.sha256(key_in(headers)).hexdigest()


def batch_router(
    store: BatchStore,
    runner: BatchRunner,
    *,
    keyed: bool,
    served: Callable[[], set[str]],
) -> APIRouter:
    """`keyed`: there are API keys, whose files are apart. `served` gives the paths there are."""
    router = json_router()
    _add_files(router, store, keyed=keyed)

    @router.post(BATCHES)
    async def create(body: BatchRequest, request: Request) -> BatchObject:
        """Answer a file of requests, behind everybody else's."""
        owner = owner_of(request, keyed=keyed)
        # The first time, the application's whole description is made for this.
        there = await asyncio.to_thread(served)
        known = [path for path in ENDPOINTS if path in there]
        if body.endpoint not in known:
            raise ApiError(
                400,
                f"A batch is for one of {', '.join(known)}.",
                code="invalid_value",
                param="endpoint",
            )
        file = store.files.get(owner, body.input_file_id, param="input_file_id")
        if file["purpose"] != "batch":
            raise ApiError(
                400,
                "Its purpose is not 'batch'.",
                code="invalid_value",
                param="input_file_id",
            )
        with told_of_the_disk():
            batch = await asyncio.to_thread(store.create, owner, body)
        runner.start(batch)
        return shown(batch)

    @router.get(BATCHES)
    async def batches(request: Request, after: After = None, limit: Limit = 20) -> BatchList:
        """The batches of this API key, the newest first."""
        owner = owner_of(request, keyed=keyed)
        for batch in store.unfinished():
            runner.count(batch)
        data, more = page(store.of(owner), after=after, limit=limit)
        return BatchList(
            object="list",
            data=data,
            first_id=data[0]["id"] if data else None,
            last_id=data[-1]["id"] if data else None,
            has_more=more,
        )

    @router.get(BATCHES + "/{batch_id}")
    async def retrieve(batch_id: str, request: Request) -> BatchObject:
        """A batch, with the numbers of its requests that are done."""
        batch = store.get(owner_of(request, keyed=keyed), batch_id)
        runner.count(batch)
        return shown(batch)

    @router.post(BATCHES + "/{batch_id}/cancel")
    async def cancel(batch_id: str, request: Request) -> BatchObject:
        """End a batch; what is done is kept."""
        batch = store.get(owner_of(request, keyed=keyed), batch_id)
        if batch["status"] in (*ENDED, "finalizing"):
            raise ApiError(
                400,
                f"This batch is {batch['status']} and can't be cancelled.",
                code="invalid_status",
            )
        if batch["status"] != "cancelling":
            with told_of_the_disk():
                await asyncio.to_thread(store.enter, batch, "cancelling")
            runner.cancel(batch)
        runner.count(batch)
        return shown(batch)

    return router


def _add_files(router: APIRouter, store: BatchStore, *, keyed: bool) -> None:
    files = store.files
    places = asyncio.Semaphore(UPLOADS_AT_ONCE)

    @router.post(
        FILES,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "required": ["file", "purpose"],
                            "properties": {
                                "file": {"type": "string", "format": "binary"},
                                "purpose": {"type": "string", "enum": ["batch"]},
                            },
                        }
                    }
                },
            }
        },
    )
    async def upload(request: Request) -> FileObject:
        """Keep a JSONL file of requests for a batch."""
        owner = owner_of(request, keyed=keyed)
        announced = request.headers.get("content-length", "0")
        files.check_room(int(announced) if announced.isdecimal() else 0)
        async with places:
            try:
                form = await request.form(
                    max_files=1, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD
                )
            except HTTPException as error:
                message = f"The upload can't be read: {error.detail}"
                raise ApiError(400, message, code="invalid_value", param="file") from error
            try:
                return await asyncio.to_thread(_keep, files, owner, form)
            finally:
                await form.close()

    @router.get(FILES)
    async def listed(
        request: Request,
        purpose: Annotated[str | None, Query(max_length=64)] = None,
        after: After = None,
        limit: FileLimit = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> FileList:
        """The files of this API key."""
        mine = files.of(owner_of(request, keyed=keyed))
        if order == "asc":
            mine.reverse()
        chosen = [one for one in mine if purpose in (None, one["purpose"])]
        data, more = page(chosen, after=after, limit=limit)
        return FileList(
            object="list",
            data=data,
            first_id=data[0]["id"] if data else None,
            last_id=data[-1]["id"] if data else None,
            has_more=more,
        )

    @router.get(FILES + "/{file_id}")
    async def described(file_id: str, request: Request) -> FileObject:
        """What is known of a file."""
        return files.get(owner_of(request, keyed=keyed), file_id)

    @router.get(FILES + "/{file_id}/content", response_class=FileResponse)
    async def content(file_id: str, request: Request) -> FileResponse:
        """A file's bytes."""
        file = files.get(owner_of(request, keyed=keyed), file_id)
        return FileResponse(files.path(file["id"]), media_type="application/jsonl")

    @router.delete(FILES + "/{file_id}")
    async def delete(file_id: str, request: Request) -> FileDeleted:
        """Delete a file that no unfinished batch reads."""
        owner = owner_of(request, keyed=keyed)
        files.get(owner, file_id)
        if store.reads(file_id):
            raise ApiError(409, "A batch that has not ended reads this file.", code="file_in_use")
        await asyncio.to_thread(files.delete, owner, file_id)
        return FileDeleted(id=file_id, object="file", deleted=True)


def _keep(files: FileStore, owner: str, form: FormData) -> FileObject:
    """Raises ApiError."""
    file = form.get("file")
    if not isinstance(file, UploadFile) or not file.size:
        raise ApiError(
            400,
            "A file is uploaded as the field 'file' of multipart/form-data, and is not empty.",
            code="invalid_value",
            param="file",
        )
    if form.get("purpose") != "batch":
        raise ApiError(
            400, "The purpose of a file must be 'batch'.", code="invalid_value", param="purpose"
        )
    if other := next((key for key in form if key not in ("file", "purpose")), None):
        field = other[:64]
        raise ApiError(
            400, f"'{field}' is not supported", code="unsupported_parameter", param=field
        )
    return files.add(owner, file.filename or "upload.jsonl", file.file, file.size)
