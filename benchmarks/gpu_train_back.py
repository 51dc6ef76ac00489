"""Bring back from a rented GPU few files, none of them large.

    weights.tar      averaged weights of each recipe in FP16, as NAME.safetensors
    logs.tar.gz      of each recipe: log, plan, report, curves, what it printed; the photographs
    state.00, ...    a tar in volumes: the newest checkpoint of each recipe, those worth most first

A checkpoint for which there is no room stays behind; that recipe goes on from its averaged weights.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from srgan_edge.errors import InputRefused

MIB = 1 << 20
LOGGED = ("log.jsonl", "plan.json", "report.md", "curves.png", "samples.png", "left_out.txt")
STATE = ("log.jsonl", "plan.json")
"""Files of a run that a resumed one needs, besides its newest checkpoint and its start."""
_VOLUME = re.compile(r"state\.\d\d")


@dataclass(frozen=True)
class Limits:
    """Limits on what a machine gives back."""

    files: int = 8
    file_bytes: int = 16 * MIB
    total_bytes: int = 64 * MIB


@dataclass(frozen=True)
class Back:
    """The unpacked files that came back."""

    photos: list[str]
    """Names of the photographs, as in the parts."""
    weights: list[Path]
    runs: Path
    """Folder of the runs, from which `srgan-edge train` goes on."""


def collect(work: Path, out: Path, names: Iterable[str], limits: Limits) -> list[str]:
    """Write what comes back of the runs `names`, those worth most first, into `out`.

    Files that were there are replaced; one that was is whole at any time.

    Returns:
        Lines about what had no room.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = list(names)
    said = []
    weights = _tar(_weights(work), "w")
    logs = _tar(_logs(work, names), "w:gz")
    for name, content in (("weights.tar", weights), ("logs.tar.gz", logs)):
        if len(content) > limits.file_bytes:
            said.append(f"{name} has {len(content) / MIB:.1f} MiB, and no room")
        else:
            _replace(out / name, content)
    used = [path.stat().st_size for path in out.glob("*.tar*")]
    volumes = limits.files - len(used)
    room = min(volumes * limits.file_bytes, limits.total_bytes - sum(used))
    kept: list[tuple[str, Path]] = []
    content = b""
    for name in names:
        more = kept + _state(work / "runs" / name)
        if len(more) == len(kept):
            continue
        larger = _tar(more, "w")
        if len(larger) > room:
            said.append(f"the checkpoint of {name} has no room; its weights are in weights.tar")
        else:
            kept, content = more, larger
    starts = range(0, len(content), limits.file_bytes)
    for number, start in enumerate(starts):
        _replace(out / f"state.{number:02}", content[start : start + limits.file_bytes])
    for stale in state_volumes(out)[len(starts) :]:
        stale.unlink()
    return said


def state_volumes(folder: Path) -> list[Path]:
    """Return the volumes of the checkpoints, in order."""
    return sorted(path for path in folder.glob("state.*") if _VOLUME.fullmatch(path.name))


def unpack_state(folder: Path, runs: Path) -> None:
    """Unpack the checkpoints below `folder` into `runs`; what is there is replaced."""
    content = b"".join(path.read_bytes() for path in state_volumes(folder))
    if content:
        _extract(io.BytesIO(content), runs, folder)


def unpack(folder: Path, into: Path) -> Back:
    """Unpack all that came back.

    Raises:
        InputRefused: `folder` does not hold it, or a file is damaged.
    """
    for name in ("logs.tar.gz", "weights.tar"):
        if not (folder / name).is_file():
            raise InputRefused(f"{folder}: no {name} in it, which `gpu-train` gives back")
        _extract(io.BytesIO((folder / name).read_bytes()), into, folder / name)
    unpack_state(folder, into / "runs")
    photos = json.loads((into / "photos.json").read_text())
    return Back(photos, sorted((into / "weights").glob("*.safetensors")), into / "runs")


def newest_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint from which a run goes on."""
    return max(run.glob("checkpoints/step-*.pt"), default=None)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps behind a checkpoint, by its name."""
    return int(checkpoint.stem.removeprefix("step-"))


def _weights(work: Path) -> list[tuple[str, Path]]:
    return [(f"weights/{path.name}", path) for path in sorted(work.glob("averages/*.safetensors"))]


def _logs(work: Path, names: list[str]) -> list[tuple[str, Path]]:
    files = [("photos.json", work / "photos.json"), ("summary.json", work / "summary.json")]
    for name in names:
        files += [(f"runs/{name}/{file}", work / "runs" / name / file) for file in LOGGED]
        files.append((f"printed/{name}.txt", work / "printed" / f"{name}.txt"))
    return [(name, path) for name, path in files if path.is_file()]


def _state(run: Path) -> list[tuple[str, Path]]:
    """Files of a run by their names in the archive; none without a checkpoint, or when done."""
    newest = newest_checkpoint(run)
    if newest is None or json.loads((run / "plan.json").read_text())["steps"] <= step_of(newest):
        return []
    paths = [newest, *sorted(run.glob("init/*.safetensors")), *(run / file for file in STATE)]
    return [
        (f"{run.name}/{path.relative_to(run).as_posix()}", path) for path in paths if path.is_file()
    ]


def _tar(files: list[tuple[str, Path]], mode: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, path in files:
            archive.add(path, name, recursive=False)
    return content.getvalue()


def _extract(content: io.BytesIO, into: Path, source: Path) -> None:
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=content) as archive:
            archive.extractall(into, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputRefused(f"{source}: damaged, or not all of it came back ({error})") from error


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
