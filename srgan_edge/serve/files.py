"""Files that a job's client gets: the result, and the page that compares it with its source."""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from srgan_edge.compare.clips import compare_videos
from srgan_edge.compare.images import compare_images
from srgan_edge.compare.layers import Comparison, Layer
from srgan_edge.compare.page import write_page
from srgan_edge.serve.requests import result_name
from srgan_edge.serve.store import Job
from srgan_edge.serve.work import in_clients_words
from srgan_edge.video.excerpt import Excerpt

COMPARED = "compared.html"
EXCERPT_SECONDS = 4.0
_MOST_HEADER_BYTES = 4096

_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/matroska",
}


def media_type(path: Path) -> str:
    """Return the type of a result by its suffix, which is ours."""
    return _TYPES.get(path.suffix, "application/octet-stream")


class ResultFile(FileResponse):
    """A result as a download, whole or in ranges.

    Args:
        removed: folder that is removed afterwards, even if the client goes away.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        headers: dict[str, str] | None = None,
        removed: Path | None = None,
    ) -> None:
        super().__init__(
            path,
            headers=headers,
            media_type=media_type(path),
            filename=result_name(name, path),
            stat_result=path.stat(),
        )
        self._removed = removed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._removed is not None:
                shutil.rmtree(self._removed, ignore_errors=True)


def digest_header(sha256: str | None) -> dict[str, str]:
    """Return the header that states the hash of a file (RFC 9530)."""
    if sha256 is None:
        return {}
    return {"repr-digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"}


def notes_header(notes: Sequence[str]) -> dict[str, str]:
    """Return the header with the notes on a result: a JSON array in ASCII of at most 4096 bytes.

    Where they are longer, the last entry says how many more there are.
    """
    if not notes:
        return {}
    for kept in range(len(notes), -1, -1):
        more = [f"{len(notes) - kept} more"] if kept < len(notes) else []
        text = json.dumps([*notes[:kept], *more]).replace("\x7f", "\\u007f")
        if len(text) <= _MOST_HEADER_BYTES:
            break
    return {"x-upscaled-notes": text}


def compared(job: Job) -> Path:
    """Return the page that compares a result with its source; it is made when first asked for.

    Raises:
        SrganEdgeError: the page would be too large, or a file cannot be shown.
    """
    path = job.folder / COMPARED
    if not path.exists():
        write_page(path, _comparison(job), job.info.name)
    return path


def _comparison(job: Job) -> Comparison:
    if job.info.kind == "image":
        found = compare_images(job.source, [job.target], {}, None, None, {})
    else:
        excerpt = Excerpt(0.0, EXCERPT_SECONDS)
        found = compare_videos(job.source, [job.target], {}, None, excerpt, {})
    layers = [_in_clients_words(layer, job) for layer in found.layers]
    notes = [in_clients_words(it, job.source, job.target, job.info.name) for it in found.notes]
    return replace(found, layers=layers, notes=notes)


def _in_clients_words(layer: Layer, job: Job) -> Layer:
    names = {job.source.name: job.info.name, job.target.name: "the result"}
    facts = {label: names.get(text, text) for label, text in layer.facts.items()}
    name = "result" if layer.name == job.target.name else layer.name
    return replace(layer, name=name, facts=facts)
