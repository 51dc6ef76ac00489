"""One HTML file with everything in it: layers, style, program. It loads nothing from anywhere."""

import base64
import html
import json
from collections.abc import Iterator
from pathlib import Path
from string import Template

from srgan_edge.compare.layers import Comparison
from srgan_edge.errors import UsageError, printable
from srgan_edge.evaluation.evaluate import METRICS
from srgan_edge.files import replace_when_whole

MAX_BYTES = 200_000_000
"""Largest page: browsers refuse files of some hundred megabytes, or take minutes."""

_FOLDER = Path(__file__).parent / "page"
BASE_STYLE = _FOLDER / "base.css"
"""Colors and frame, of the pages of `serve` too."""

_ARROWS = {"higher": "↑", "lower": "↓", "nearer zero": "→ 0"}


def write_page(path: Path, comparison: Comparison, title: str, *, overwrite: bool = True) -> None:
    """Write the page, whole or not at all.

    Args:
        overwrite: replace a file that appears at `path` in the meantime.

    Raises:
        UsageError: it would be larger than `MAX_BYTES`.
        OutputFailed: it cannot be written.
    """
    content = page_of(comparison, title)
    if len(content) > MAX_BYTES:
        raise UsageError(
            f"the page would have {len(content) / 1e6:.0f} MB; possible: {MAX_BYTES / 1e6:.0f} MB. "
            "Show less: --crop X,Y,W,H of images, --duration of videos, or fewer results"
        )
    with replace_when_whole(path, overwrite=overwrite) as temporary:
        temporary.write_text(content, encoding="utf-8")


def page_of(comparison: Comparison, title: str) -> str:
    """Return the page as HTML."""
    media = "\n".join(
        f'<script type="text/plain" id="media-{number}">'
        f"{base64.b64encode(layer.content).decode()}</script>"
        for number, layer in enumerate(comparison.layers)
    )
    return Template((_FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(printable(title)),
        style=BASE_STYLE.read_text(encoding="utf-8")
        + (_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
        facts=_in_script(_facts(comparison)),
        media=media,
    )


def _facts(comparison: Comparison) -> dict[str, object]:
    """Return what the program of the page reads: `Facts` in page.js."""
    return {
        "width": comparison.width,
        "height": comparison.height,
        "layers": [
            {
                "name": printable(layer.name),
                "kind": layer.kind,
                "type": layer.type,
                "blocks": layer.blocks,
                "width": layer.width,
                "height": layer.height,
            }
            for layer in comparison.layers
        ],
        "start": comparison.start,
        "rows": [*_fact_rows(comparison), *_score_rows(comparison)],
        "notes": [printable(note) for note in comparison.notes],
        "times": comparison.times_seconds,
        "end": comparison.end_seconds,
    }


def _fact_rows(comparison: Comparison) -> Iterator[dict[str, object]]:
    labels = dict.fromkeys(label for layer in comparison.layers for label in layer.facts)
    for label in labels:
        values = [layer.facts.get(label, "") for layer in comparison.layers]
        yield {"label": label, "values": values, "best": []}


def _score_rows(comparison: Comparison) -> Iterator[dict[str, object]]:
    for name, metric in METRICS.items():
        scores = [layer.scores.get(name) for layer in comparison.layers]
        known = [score for score in scores if score is not None]
        if not known:
            continue
        texts = ["" if score is None else metric.text(score) for score in scores]
        best = metric.best(known)
        yield {
            "label": f"{metric.heading.replace(chr(10), ' ')} {_ARROWS[metric.better]}",
            "values": texts,
            "best": [n for n, text in enumerate(texts) if text == best] if len(known) > 1 else [],
        }


def _in_script(value: object) -> str:
    """Return JSON that no name in it can end the script element of."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace("&", "\\u0026")
