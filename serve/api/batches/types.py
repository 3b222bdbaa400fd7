"""What goes over the wire: files, batches and their parts, as OpenAI names them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from tuneserve.serve.api.batches.usage import BatchUsage

ENDED = frozenset({"completed", "failed", "cancelled", "expired"})

Status = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled",
    "expired",
]  # fmt: skip


class FileObject(TypedDict):
    """An uploaded file, or one that a batch has written."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class FileList(TypedDict):
    """Answer of GET /v1/files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(TypedDict):
    """Answer of DELETE /v1/files/{id}."""

    id: str
    object: Literal["file"]
    deleted: bool


class BatchProblem(TypedDict):
    """Why a batch failed, and at which line of its file (from 1)."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(TypedDict):
    """All that is wrong with a batch."""

    object: Literal["list"]
    data: list[BatchProblem]


class RequestCounts(TypedDict):
    """Requests of a batch: all, answered, and refused or failed."""

    total: int
    completed: int
    failed: int


class BatchObject(TypedDict):
    """A batch. Times are seconds since 1970; `model` is the one of all answers so far, if they are
    of one, `usage` their tokens."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    model: str | None
    usage: BatchUsage | None


class BatchList(TypedDict):
    """Answer of GET /v1/batches."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchRequest(BaseModel):
    """Body of POST /v1/batches."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: Annotated[str, Field(max_length=64)]
    """A file uploaded with the purpose 'batch': one request per line."""
    endpoint: Annotated[str, Field(max_length=64)]
    """The path that all requests are for, such as /v1/chat/completions."""
    completion_window: Literal["24h"]
    """After this time the batch expires; what is done by then is kept."""
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    """Kept, and given back."""


class BatchLine(BaseModel):
    """A line of a batch's input file."""

    custom_id: Annotated[str, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]
