"""The OpenAPI document: what FastAPI cannot know of uploads, files, tokens and refusals."""

from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi import Path as InPath

from srgan_edge.serve.problems import BY_EXIT_CODE, MEDIA_TYPE, OWN, Problem
from srgan_edge.serve.requests import MAX_OUTSCALE, MAX_PRIORITY

DESCRIPTION = (
    "Upscales images and videos. Refusals are `application/problem+json`: `detail` says what was "
    "got, `possible` what is possible. Tokens go into the header `Authorization: Bearer TOKEN`, "
    "never into an address."
)
JobId = Annotated[
    str,
    InPath(
        description="As POST /v1/jobs gave it",
        pattern="^[0-9a-f]{32}$",
        examples=["0f3a5c7e9b1d2f4a6c8e0b2d4f6a8c0e"],
    ),
]
LastId = Annotated[
    str | None,
    Header(
        description="Id of the last event that was received",
        pattern="^[0-9]{0,17}$",
        examples=["17"],
    ),
]
_FILE = {"schema": {"type": "string", "format": "binary"}}
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": {"image/*": _FILE, "video/*": _FILE}},
    206: {
        "description": "The range that was asked for",
        "content": {"image/*": _FILE, "video/*": _FILE, "multipart/byteranges": _FILE},
    },
}
IMAGE_RESPONSES: dict[int | str, dict[str, Any]] = FILE_RESPONSES | {
    200: FILE_RESPONSES[200]
    | {
        "headers": {
            "x-upscaled-size": {
                "description": "Width and height of the result",
                "schema": {"type": "string", "example": "1280x720"},
            },
            "x-upscaled-notes": {
                "description": "What was assumed, left out or done differently: a JSON array of "
                "strings in ASCII; absent where there is nothing",
                "schema": {"type": "string", "example": '["photo.jpg: left out: XMP"]'},
            },
        }
    }
}

_EXAMPLE_JOB = {
    "id": "0f3a5c7e9b1d2f4a6c8e0b2d4f6a8c0e",
    "state": "running",
    "kind": "video",
    "name": "holiday.mp4",
    "model": "auto",
    "outscale": None,
    "priority": 0,
    "bytes": 7340032,
    "created": 1790000000.0,
    "started": 1790000001.5,
    "ended": None,
    "frames": 120,
    "frames_expected": 750,
    "position": None,
    "seconds": 0.0,
    "exit_code": None,
    "error": None,
    "size": None,
    "result_bytes": None,
    "sha256": None,
    "notes": ["holiday.mp4: upscaled by edge-x4 (h264 of 0.4 bits a pixel, a video on a CPU)"],
    "change": 17,
}
_POSSIBLE_OF_ALL = (400, 401, 403, 408, 413, 421, 422, 429, 503)


def upload_body(*, with_path: bool) -> dict[str, Any]:
    """Return the description of a multipart upload."""
    fields: dict[str, Any] = {
        "file": {"type": "string", "format": "binary", "description": "The image or video"},
        "model": {"type": "string", "examples": ["edge-x4"], "description": "As /v1/about lists"},
        "outscale": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_OUTSCALE},
        "format": {"type": "string", "examples": ["png"], "description": "Type of the result"},
    }
    if with_path:
        fields["path"] = {"type": "string", "description": "File below --root, instead of `file`"}
        fields["priority"] = {
            "type": "integer",
            "minimum": -MAX_PRIORITY,
            "maximum": MAX_PRIORITY,
        }
    schema = {"type": "object", "properties": fields, "additionalProperties": False}
    if not with_path:
        schema["required"] = ["file"]
    content = {
        "multipart/form-data": {"schema": schema, "example": {"file": "…", "model": "edge-x4"}}
    }
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI) -> None:
    """Complete the document that the application serves."""
    made = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(made())
        return made()

    app.openapi = document  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    parts = document["components"]
    parts["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": "srgan-edge-session"},
    }
    parts["schemas"]["Problem"] = _PROBLEM
    parts["schemas"]["JobInfo"]["example"] = _EXAMPLE_JOB
    for name in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(name, None)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path not in ("/healthz", "/readyz"):
                operation["security"] = [{"bearer": []}, {"session": []}, {}]
            for status in _statuses(path, method):
                operation["responses"][str(status)] = _refusal(status)


def _statuses(path: str, method: str) -> set[int]:
    """Return the statuses of refusals that a route has."""
    found = set(_POSSIBLE_OF_ALL)
    if "{job_id}" in path:
        found.add(404)
    if path.endswith(("/result", "/compare")):
        found |= {409, 416}
    if path.endswith("/compare") or method == "post":
        found |= {kind.status for _, kind in BY_EXIT_CODE.values()} - {500}
    if method in ("post", "delete"):
        found |= {507}
    return found


def _refusal(status: int) -> dict[str, Any]:
    names = [name for name, kind in _kinds().items() if kind.status == status]
    titles = [_kinds()[name].title for name in names]
    example = Problem(names[0], "what was got", "what is possible").body
    return {
        "description": " ".join(titles),
        "content": {
            MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
        },
    }


def _kinds() -> dict[str, Any]:
    return {**OWN, **dict(BY_EXIT_CODE.values())}


_PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "urn:srgan-edge:problem:NAME"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was got"},
        "possible": {"type": "string", "description": "What is possible"},
        "exit_code": {"type": ["integer", "null"], "description": "Of the upscale command"},
    },
}
