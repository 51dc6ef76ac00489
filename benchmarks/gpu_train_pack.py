"""Pack what a rented GPU needs for `gpu_train.py`, in parts of the size that it takes at a time.

    carry/1, carry/2, ...            each with its share of the following, and `manifest.json`
        photos/FOLDER/...            the busiest photographs, as they are
        weights/                     VGG; teachers by scale, compressed: much of them is zeros
        validation/NAME/HR, LRx4     a benchmark
        wheels/                      packages that the machine lacks
        state/state.00, ...          checkpoints that came back
        returned/                    averaged weights that came back

`gather` puts the parts together again; it needs nothing but Python.
"""

import hashlib
import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from srgan_edge.errors import InputRefused, UsageError

MIB = 1 << 20
MARGIN_BYTES = 1 * MIB
"""For the folders and names of what travels."""
CROP_PX = 192
"""The largest crop of any job; smaller photographs are left out."""
MANIFEST = "manifest.json"
_COMPRESSED = ".xz"


@dataclass(frozen=True)
class Item:
    """One file that travels."""

    name: str
    """Its path below a part, with slashes."""
    path: Path
    """Its place here."""
    bytes: int

    @classmethod
    def of(cls, name: str, path: Path) -> "Item":
        if not path.is_file():
            raise InputRefused(f"{path}: no such file")
        return cls(name, path, path.stat().st_size)


@dataclass(frozen=True)
class Photo:
    """A photograph that may travel."""

    item: Item
    busyness: float
    """Mean difference between neighbors at a quarter of the size, in levels."""
    megapixels: float


def room_bytes(limit_bytes: int, tree: Path) -> int:
    """Return what the files of a checkout that git tracks, or does not ignore, leave of a limit.

    Raises:
        UsageError: nothing is left, or `tree` is no checkout.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=tree,
        capture_output=True,
    )
    if listed.returncode:
        raise UsageError(f"{tree} is no checkout of git; run this in one")
    names = {name for name in listed.stdout.decode().split("\0") if name}
    paths = [tree / name for name in names]
    taken = sum(path.lstat().st_size for path in paths if path.is_symlink() or path.is_file())
    if (room := limit_bytes - MARGIN_BYTES - taken) < MIB:
        raise UsageError(
            f"the checkout has {taken / MIB:.1f} MiB of {limit_bytes / MIB:.0f}, which leaves no "
            "room; type --limit-mib for another limit"
        )
    return room


def find_photos(folders: Iterable[Path]) -> list[Photo]:
    """Return all photographs below folders that a crop fits into, the busiest first."""
    from srgan_edge.train.photo_files import photo_paths

    found = []
    for folder in folders:
        for path in photo_paths(folder):
            name = f"photos/{folder.resolve().name}/{path.relative_to(folder).as_posix()}"
            if (photo := _looked_at(Item.of(name, path))) is not None:
                found.append(photo)
    return sorted(found, key=lambda photo: (-photo.busyness, photo.item.name))


def _looked_at(item: Item) -> Photo | None:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(item.path) as image:
            width, height = image.size
            if min(width, height) < CROP_PX:
                return None
            image.draft("RGB", (width // 4, height // 4))  # a JPEG is decoded at that size
            small = image.convert("RGB").resize((width // 4, height // 4), Image.Resampling.BOX)
    except (OSError, ValueError):
        return None
    levels = np.asarray(small).astype(np.int16)
    steps = [np.abs(np.diff(levels, axis=axis)).mean() for axis in (0, 1)]
    return Photo(item, float(sum(steps)), width * height / 1e6)


def choose_photos(photos: Iterable[Photo], budget_bytes: int) -> list[Photo]:
    """Return the first of them that fit."""
    chosen = []
    for photo in photos:
        if photo.item.bytes <= budget_bytes:
            chosen.append(photo)
            budget_bytes -= photo.item.bytes
    return chosen


def divide(items: Iterable[Item], room: int) -> list[list[Item]]:
    """Return the items in as few parts of at most `room` bytes as their order allows.

    Raises:
        UsageError: an item is larger than a part.
    """
    parts: list[list[Item]] = []
    left: list[int] = []
    for item in items:
        if item.bytes > room:
            raise UsageError(
                f"{item.path} has {item.bytes / MIB:.1f} MiB, and a part {room / MIB:.1f}; "
                "leave it out, or type --limit-mib for another limit"
            )
        number = next((n for n, free in enumerate(left) if item.bytes <= free), len(parts))
        if number == len(parts):
            parts.append([])
            left.append(room)
        parts[number].append(item)
        left[number] -= item.bytes
    return parts


def write_parts(parts: list[list[Item]], carry: Path) -> None:
    """Replace what is in `carry` by the parts."""
    if carry.exists() and not any(carry.glob(f"*/{MANIFEST}")) and any(carry.iterdir()):
        raise UsageError(f"{carry} holds something else; name another folder with -o")
    shutil.rmtree(carry, ignore_errors=True)
    digest = hashlib.sha256()
    for item in sorted((item for part in parts for item in part), key=lambda item: item.name):
        digest.update(f"{item.name}\0".encode() + hashlib.sha256(item.path.read_bytes()).digest())
    for number, part in enumerate(parts, 1):
        for item in part:
            target = carry / str(number) / item.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(item.path, target)
        manifest = {
            "pack": digest.hexdigest(),
            "part": number,
            "parts": len(parts),
            "files": [item.name for item in part],
        }
        (carry / str(number) / MANIFEST).write_text(json.dumps(manifest, indent=1))


def gather(carries: Iterable[Path], work: Path) -> list[str]:
    """Copy the files of all parts below some folders into `work`.

    Returns:
        The names of the photographs.

    Raises:
        InputRefused: a part or a file is missing, or they are of different packings.
    """
    folders = [path.parent for carry in carries for path in sorted(carry.glob(f"*/{MANIFEST}"))]
    manifests = {folder: json.loads((folder / MANIFEST).read_text()) for folder in folders}
    if not manifests:
        raise InputRefused("no part is here; type: make gpu-pack, where the photographs are")
    if len({manifest["pack"] for manifest in manifests.values()}) > 1:
        raise InputRefused("the parts are of different packings; carry all parts of one")
    there = {manifest["part"] for manifest in manifests.values()}
    in_all = next(iter(manifests.values()))["parts"]
    if missing := sorted(set(range(1, in_all + 1)) - there):
        raise InputRefused(f"of {in_all} parts {missing} are not here; carry them too")
    for folder, manifest in manifests.items():
        for name in manifest["files"]:
            if not (folder / name).is_file():
                raise InputRefused(f"{folder / name}: is in the manifest and not here")
            target = work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == _COMPRESSED:
                target.with_suffix("").write_bytes(lzma.decompress((folder / name).read_bytes()))
            else:
                shutil.copy2(folder / name, target)
    names = sorted(name for manifest in manifests.values() for name in manifest["files"])
    return [name for name in names if name.startswith("photos/")]


def pack(
    folders: list[Path],
    carry: Path,
    *,
    limit_bytes: int,
    calls: int,
    vgg: Path | None,
    teachers: list[Path],
    wheels: Path | None,
    validation: Path | None,
    back: Path | None,
    tree: Path,
    scratch: Path,
) -> list[str]:
    """Write the parts; returns lines that say what is in them.

    Args:
        limit_bytes: what travels at a time, the checkout in `tree` included.
        calls: number of parts that photographs may fill; with `back`, as many as it takes.
        teachers: `.pth` files with x2, x4 and the like in their names.
        back: what a run before this one gave back; its photographs are taken again.
        scratch: folder for what is made on the way.
    """
    import gpu_train_back

    room = room_bytes(limit_bytes, tree)
    needed: list[Item] = []
    if vgg is not None:
        needed.append(Item.of("weights/vgg.safetensors", _in_half(vgg, scratch)))
    for teacher in teachers:
        scale = re.search(r"x(\d)", teacher.name)
        if scale is None or teacher.suffix != ".pth":
            raise UsageError(f"{teacher}: possible are .pth files with the scale, as x4, in a name")
        name = f"weights/teacher-x{scale[1]}.pth{_COMPRESSED}"
        needed.append(Item.of(name, _compressed(teacher, scratch)))
    for wheel in sorted(wheels.glob("*.whl")) if wheels is not None else ():
        needed.append(Item.of(f"wheels/{wheel.name}", wheel))
    if validation is not None:
        for path in sorted(validation.glob("*/*")):
            name = f"validation/{validation.resolve().name}/{path.relative_to(validation)}"
            needed.append(Item.of(name, path))
    divide(needed, room)  # refuses what is too large for a part
    photos = find_photos(folders)
    if back is None:
        budget = calls * room - sum(item.bytes for item in needed)
        chosen = choose_photos(photos, budget)
    else:
        before = gpu_train_back.unpack(back, scratch / "back")
        needed += [
            Item.of(f"state/{path.name}", path) for path in gpu_train_back.state_volumes(back)
        ]
        needed += [Item.of(f"returned/{path.name}", path) for path in before.weights]
        chosen = _the_same(photos, before.photos)
    if not chosen:
        raise UsageError(
            f"{calls} parts of {room / MIB:.1f} MiB have no room for a photograph of at least "
            f"{CROP_PX}x{CROP_PX} in {', '.join(map(str, folders))}; type --calls {calls + 1}"
        )
    if back is None:  # small files end up in the gaps; some may not
        while len(divide([*needed, *(photo.item for photo in chosen)], room)) > calls:
            chosen.pop()
    parts = divide([*needed, *(photo.item for photo in chosen)], room)
    write_parts(parts, carry)
    return _summary(photos, chosen, needed, parts, room, carry)


def _the_same(photos: list[Photo], names: list[str]) -> list[Photo]:
    by_name = {photo.item.name: photo for photo in photos}
    if missing := [name for name in names if name not in by_name]:
        raise InputRefused(
            f"{len(missing)} photographs of the run before are not in these folders, the first "
            f"is {missing[0]}; name the same folders"
        )
    return [by_name[name] for name in names]


def _compressed(path: Path, scratch: Path) -> Path:
    if not path.is_file():
        raise InputRefused(f"{path}: no such file")
    scratch.mkdir(parents=True, exist_ok=True)
    small = scratch / f"{path.name}{_COMPRESSED}"
    small.write_bytes(lzma.compress(path.read_bytes(), preset=3))
    return small


def _in_half(weights: Path, scratch: Path) -> Path:
    """Return a file with the convolutions of a VGG in FP16."""
    from safetensors.torch import save_file

    from srgan_edge.train.vgg import read_weights, vgg_convolutions

    vgg_convolutions(weights)  # refuses other files
    scratch.mkdir(parents=True, exist_ok=True)
    half = scratch / "vgg.safetensors"
    state = read_weights(weights)
    save_file({k: v.half().contiguous() for k, v in state.items() if "classifier" not in k}, half)
    return half


def _summary(
    photos: list[Photo],
    chosen: list[Photo],
    needed: list[Item],
    parts: list[list[Item]],
    room: int,
    carry: Path,
) -> list[str]:
    least = min(photo.busyness for photo in chosen)
    lines = [
        f"{len(chosen)} of {len(photos)} photographs, "
        f"{sum(photo.megapixels for photo in chosen):.0f} of "
        f"{sum(photo.megapixels for photo in photos):.0f} megapixels, "
        f"{sum(photo.item.bytes for photo in chosen) / MIB:.1f} MiB; the least busy has "
        f"{least:.1f} levels between neighbors",
        *(f"{item.name}, {item.bytes / MIB:.2f} MiB" for item in needed),
    ]
    for number, part in enumerate(parts, 1):
        size = sum(item.bytes for item in part) / MIB
        lines.append(f"{carry / str(number)}: {size:.1f} of {room / MIB:.1f} MiB")
    return lines
