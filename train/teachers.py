"""Teachers: networks whose images a student imitates, each computed once on this machine.

A teacher is a model of ours or, with an optional package, a file of another program's whose licence
allows it: `.pth` through spandrel, `.param` with its `.bin` through ncnn. What one made of a
image lies in a cache under the SHA-256 of that image, where every later run finds it, whatever
its recipe; a run that is stopped loses the image at hand.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import ExtraMissing, ModelRefused, OutputFailed
from srgan_edge.files import cache_folder, open_model, replace_when_whole, sha256_of
from srgan_edge.model.library import find_model
from srgan_edge.pixels import Pixels

Upscale: TypeAlias = Callable[[Pixels], Pixels]
"""uint8 [N, h, w, 3] to uint8 [N, sh, sw, 3]."""

CACHE_VARIABLE = "SRGAN_EDGE_TEACHERS"
"""Environment variable that names another folder than `~/.cache/srgan-edge/teachers`."""

FOREIGN_HALO_PX = 16
"""Around the tiles of networks whose reach is not known; most photographs go through whole."""


@dataclass(frozen=True)
class Teacher:
    """One network, or several of which each pixel is the mean."""

    name: str
    """Digests of its files: it tells teachers apart, wherever they lie."""
    halo_px: int
    upscale: Upscale


@contextmanager
def open_teachers(names: str, scale: int, device: torch.device) -> Iterator[Teacher]:
    """The teachers of a recipe, named with commas between them, as one; their results are kept.

    Raises:
        ModelRefused: one is missing, cannot be read, or enlarges by another factor.
        ExtraMissing: one needs spandrel or ncnn.
        OutputFailed: the cache cannot be written.
    """
    with ExitStack() as stack:
        opened: list[Teacher] = []
        for name in map(str.strip, names.split(",")):
            path = Path(name)
            if path.suffix == ".pth":
                teacher = _of_spandrel(path, scale, device)
            elif path.suffix == ".param":
                teacher = _of_ncnn(path)
            else:
                checkpoint = find_model(name).file(".safetensors")
                engine = stack.enter_context(TorchEngine(checkpoint, str(device), fp32=True))
                halo_px = engine.info.spec.receptive_radius_px
                teacher = Teacher(digest_of(checkpoint), halo_px, engine.upscale)
            folder = cache_folder(CACHE_VARIABLE, "teachers") / teacher.name
            kept = remembered(teacher.upscale, folder, scale)
            opened.append(Teacher(teacher.name, teacher.halo_px, kept))
        yield Teacher(
            "-".join(teacher.name for teacher in opened),
            max(teacher.halo_px for teacher in opened),
            mean_of([teacher.upscale for teacher in opened]),
        )


def remembered(upscale: Upscale, folder: Path, scale: int) -> Upscale:
    """`upscale`, but what it made of an image before is read from `folder`, which is made.

    Raises (when called):
        ModelRefused: the result does not have `scale` times the size.
        OutputFailed: the result cannot be kept.
    """

    def upscale_once(batch: Pixels) -> Pixels:
        count, height, width, colors = batch.shape
        wanted = (count, scale * height, scale * width, colors)
        digest = hashlib.sha256(repr(batch.shape).encode())
        digest.update(np.ascontiguousarray(batch).data)
        path = folder / f"{digest.hexdigest()}.u8"
        try:
            found = np.fromfile(path, np.uint8)
        except OSError:
            found = np.empty(0, np.uint8)
        if found.size == np.prod(wanted):
            return found.reshape(wanted)
        result = upscale(batch)
        if result.shape != wanted:
            raise ModelRefused(f"the teacher makes {result.shape[1:3]} of {batch.shape[1:3]}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputFailed(
                f"cannot make the folder {folder} for teachers' images: {error.strerror}; "
                f"name another place with {CACHE_VARIABLE}"
            ) from error
        with replace_when_whole(path, option=CACHE_VARIABLE) as partial:
            partial.write_bytes(result.tobytes())
        return result

    return upscale_once


def mean_of(upscales: Sequence[Upscale]) -> Upscale:
    """Each value is the mean of all results, halves upwards: their errors differ, and cancel."""
    if len(upscales) == 1:
        return upscales[0]

    def upscale(batch: Pixels) -> Pixels:
        total = np.stack([one(batch) for one in upscales]).sum(0, dtype=np.uint16)
        rounded: Pixels = ((2 * total + len(upscales)) // (2 * len(upscales))).astype(np.uint8)
        return rounded

    return upscale


def _of_spandrel(path: Path, scale: int, device: torch.device) -> Teacher:
    digest = digest_of(path)
    try:
        import spandrel
    except ImportError:
        raise ExtraMissing("spandrel", "spandrel", f"the teacher {path.name}") from None
    loader = spandrel.ModelLoader(device)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = loader.load_from_state_dict(state)
    except Exception as error:
        raise ModelRefused(f"{path}: not a network that spandrel knows: {error}") from error
    if network.scale != scale:
        raise ModelRefused(f"{path} enlarges {network.scale} times, the recipe {scale} times")
    network.eval()

    @torch.inference_mode()
    def upscale(batch: Pixels) -> Pixels:
        lr = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 255
        levels = network(lr).clamp(0, 1) * 255 + 0.5
        sr: Pixels = levels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
        return sr

    return Teacher(digest, FOREIGN_HALO_PX, upscale)


def _of_ncnn(path: Path) -> Teacher:
    digest = digest_of(path, path.with_suffix(".bin"))
    try:
        import ncnn
    except ImportError:
        raise ExtraMissing("ncnn", "ncnn", f"the teacher {path.name}") from None
    network = ncnn.Net()
    network.opt.num_threads = torch.get_num_threads()
    for lossy in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, lossy, False)
    if network.load_param(str(path)) or network.load_model(str(path.with_suffix(".bin"))):
        raise ModelRefused(f"{path}: not a network that ncnn knows")

    def upscale(batch: Pixels) -> Pixels:
        return np.stack([upscaled(lr) for lr in batch])

    def upscaled(lr: Pixels) -> Pixels:
        extractor = network.create_extractor()
        planes = np.ascontiguousarray(lr.transpose(2, 0, 1).astype(np.float32) / 255)
        extractor.input(network.input_names()[0], ncnn.Mat(planes))
        failed, result = extractor.extract(network.output_names()[0])
        if failed:
            raise ModelRefused(f"{path}: ncnn could not compute it")
        levels = np.clip(np.array(result), 0, 1) * 255 + 0.5
        sr: Pixels = levels.astype(np.uint8).transpose(1, 2, 0)
        return np.ascontiguousarray(sr)

    return Teacher(digest, FOREIGN_HALO_PX, upscale)


def digest_of(*paths: Path) -> str:
    """Return a digest of the files one after another, in 12 hexadecimal digits.

    For a single file these are the first of its SHA-256.
    """
    digest = hashlib.sha256()
    for path in paths:
        open_model(path).close()  # refuse now what is no file
        digest.update(sha256_of(path).encode())
    return (sha256_of(paths[0]) if len(paths) == 1 else digest.hexdigest())[:12]
