"""An upload (multipart/form-data, RFC 7578) that lies in a file: its fields, and where its file is.

The body is not held in memory; headers are read by the standard library's email package."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesHeaderParser
from typing import BinaryIO

MOST_PARTS = 32
LONGEST_HEADERS = 4096
LONGEST_FIELD = 4096


class MultipartError(Exception):
    """What is wrong with an upload."""


@dataclass(slots=True)
class Upload:
    """`fields` by name; the file's name, and the place of its bytes: from `start` up to `end`."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    start: int = 0
    end: int = 0


def boundary_of(content_type: str) -> bytes:
    """The delimiter of the parts. Raises MultipartError for another type of content."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/form-data" or not boundary:
        raise MultipartError("an upload is multipart/form-data, with a boundary")
    if not boundary.isascii() or not 1 <= len(boundary) <= 70:
        raise MultipartError("the boundary has up to 70 ASCII characters")
    return b"--" + boundary.encode()


def read_upload(body: BinaryIO, size: int, boundary: bytes) -> Upload:
    """The parts of a body of `size` bytes. Raises MultipartError."""
    if size == 0:
        raise MultipartError("the body is empty")
    upload = Upload()
    with mmap.mmap(body.fileno(), size, access=mmap.ACCESS_READ) as data:
        at = data.find(boundary)
        if at not in (0, 2) or (at == 2 and data[:2] != b"\r\n"):
            raise MultipartError("the body does not begin with the boundary")
        for _ in range(MOST_PARTS):
            at += len(boundary)
            if data[at : at + 2] == b"--":
                return upload
            start = data.find(b"\r\n", at, at + 256)
            headers_end = data.find(b"\r\n\r\n", start, start + LONGEST_HEADERS)
            end = data.find(b"\r\n" + boundary, headers_end + 2)
            if start < 0 or headers_end < 0 or end < 0 or data[at:start].strip(b" \t"):
                raise MultipartError("the body ends within a part, or a part has no headers")
            headers = BytesHeaderParser().parsebytes(data[start + 2 : headers_end + 4])
            _take(upload, headers, data, headers_end + 4, end)
            at = end + 2
    raise MultipartError(f"an upload has at most {MOST_PARTS} parts")


def _take(upload: Upload, headers: Message, data: mmap.mmap, start: int, end: int) -> None:
    name = headers.get_param("name", header="content-disposition")
    if headers.get_content_disposition() != "form-data" or not isinstance(name, str):
        raise MultipartError("a part has no name")
    end = max(start, end)
    if name == "file":
        if upload.filename is not None:
            raise MultipartError("there is more than one file")
        upload.filename = headers.get_filename() or "upload.jsonl"
        upload.start, upload.end = start, end
        return
    if end - start > LONGEST_FIELD or name in upload.fields:
        raise MultipartError(f"the field {name[:80]!r} is too long, or stands there twice")
    try:
        upload.fields[name] = data[start:end].decode("utf-8")
    except UnicodeDecodeError:
        raise MultipartError(f"the field {name[:80]!r} is not UTF-8") from None
