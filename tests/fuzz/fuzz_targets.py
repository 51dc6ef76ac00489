"""What is fuzzed: functions that read strangers' bytes, and the only errors that may come out.

Everything but those is a finding. Its bytes go to `corpus/TARGET/`, and are never removed.
"""

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import scripted_child
import structured
from clips import make
from PIL import Image

from srgan_edge.engines import KINDS
from srgan_edge.errors import (
    InputDamaged,
    InputRefused,
    ModelRefused,
    OutputFailed,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.writer import SUFFIXES, left_out_by, write_image
from srgan_edge.isolation.child import ChildFailed
from srgan_edge.isolation.wire import unpack
from srgan_edge.model.library import bundled_models, safetensors_spec
from srgan_edge.model.onnx_file import read_onnx_spec
from srgan_edge.model.passport import Passport
from srgan_edge.model.spec import ModelSpec
from srgan_edge.video.frame import VideoInfo
from srgan_edge.video.reader import VideoReader

CORPUS = Path(__file__).parent / "corpus"
MAX_FRAMES = 20
MAX_PIXELS = 1_000_000

_folder = tempfile.TemporaryDirectory(prefix="fuzz-")


@dataclass(frozen=True)
class Target:
    """One function, what it may raise, and sound inputs to start from."""

    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]

    def __call__(self, content: bytes) -> None:
        try:
            self.run(content)
        except self.allowed:
            return


def corpus(name: str) -> Iterator[bytes]:
    """The seeds of a target, and all that was ever found."""
    yield from TARGETS[name].seeds()
    for path in sorted((CORPUS / name).glob("*")):
        yield path.read_bytes()


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out or said twice: what a fuzzer without guidance does."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(changed) or 1)
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                changed[at : at + 4] = rng.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")
                )
            case 2:
                del changed[at : at + rng.randint(1, 64)]
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 64)]
    return bytes(changed)


def _file(content: bytes) -> Path:
    path = Path(_folder.name) / "in"
    path.write_bytes(content)
    return path


def _read_image(content: bytes) -> None:
    with ImageReader(_file(content), MAX_PIXELS) as reader:
        assert reader.is_transparent in (True, False)
        for frame in range(min(reader.frames, MAX_FRAMES)):
            if reader.frames > 1:
                reader.seek(frame)
            reader.rows(0, reader.height)


def _read_statements(content: bytes) -> None:
    """Read an image, and write what its header says into every format."""
    with ImageReader(_file(structured.image(content)), MAX_PIXELS) as reader:
        assert all(note.isprintable() for note in reader.notes)
        image = reader.rows(0, reader.height)
    for suffix in SUFFIXES:
        target = Path(_folder.name) / f"out{suffix}"
        left_out = left_out_by(target, image)
        assert all(isinstance(line, str) for line in left_out)
        with suppress(UsageError, OutputFailed):
            write_image(target, image)
            with ImageReader(target, MAX_PIXELS) as again:
                assert (again.width, again.height) == (image.pixels.shape[1], len(image.pixels))


def _edited_onnx(content: bytes) -> None:
    """Read a graph of ours after edits; what is accepted must run, or be refused by a runtime."""
    model = onnx.ModelProto.FromString(_models(".onnx")[0])
    path = _file(structured.onnx_edits(model, content))
    path = path.rename(path.with_suffix(".onnx"))
    with KINDS["onnxruntime"].open(path, "cpu", fp32=True, slots=1) as engine:
        result = engine.upscale(np.zeros((1, 8, 9, 3), np.uint8))
    scale = engine.info.spec.scale
    assert result.shape == (1, 8 * scale, 9 * scale, 3)


def _read_video(content: bytes) -> None:
    with VideoReader(_file(content), allow_8bit=True) as reader:
        for _ in islice(reader, MAX_FRAMES):
            pass


def _videos() -> list[bytes]:
    folder = Path(_folder.name)
    ms, tick = Fraction(1, 1000), Fraction(1, 25)
    wanted = [
        make(folder / "a.mp4", frames=4, audio=["eng"], subtitles="mov_text", cover="png"),
        make(folder / "b.mkv", frames=4, time_base=ms, chapters=True, options={"bf": "2"}),
        make(folder / "c.ts", frames=4, time_base=Fraction(1, 90000)),
        make(folder / "d.avi", frames=4, time_base=tick, codec="mpeg4", options={}),
        make(folder / "e.mkv", frames=2, codec="ffv1", options={}, size=(16, 16)),
        make(folder / "f.webm", frames=2, codec="libvpx-vp9", options={}, size=(16, 16)),
    ]
    return [path.read_bytes() for path in wanted]


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (7, 9, 4), np.uint8)
    found = []
    for name in ("GIF", "WEBP", "PNG"):
        path = Path(_folder.name) / "animation"
        first, *others = [Image.fromarray(np.roll(pixels, n, 0)[..., :3]) for n in range(3)]
        first.save(path, name, save_all=True, append_images=others, duration=40)
        found.append(path.read_bytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        for mode in ("L", "RGB", "RGBA", "P"):
            if name == "JPEG" and mode in ("RGBA", "P"):
                continue
            path = Path(_folder.name) / "image"
            image = Image.fromarray(pixels, "RGBA").convert(mode)
            image.save(path, name, **({} if name == "BMP" else {"exif": exif}))
            found.append(path.read_bytes())
    others = [("AVIF", "RGB"), ("AVIF", "RGBA"), ("JPEG2000", "RGB"), ("JPEG2000", "LA")]
    others += [("PPM", "RGB"), ("PPM", "1"), ("PPM", "I;16"), ("PPM", "F"), ("TGA", "RGB")]
    others += [("TGA", "P")]
    for name, mode in others:
        path = Path(_folder.name) / "image"
        image = Image.fromarray(pixels, "RGBA").convert("L" if mode == "I;16" else mode)
        if mode == "F":  # white is 1.0
            image = Image.fromarray(np.asarray(image) / 255)
        image.convert(mode).save(path, name)
        footer = bytes(8) + b"TRUEVISION-XFILE.\0" if name == "TGA" else b""  # or it is no TGA
        found.append(path.read_bytes().removesuffix(footer) + footer)
    return found


def _models(suffix: str) -> list[bytes]:
    """The smallest bundled one."""
    files = [model.files[suffix] for model in bundled_models().values() if model.has(suffix)]
    return [min(files, key=lambda path: path.stat().st_size).read_bytes()]


def _specs() -> list[bytes]:
    return [model.spec.to_json().encode() for model in bundled_models().values()]


def _passports() -> list[bytes]:
    spec = json.loads(next(iter(bundled_models().values())).spec.to_json())
    shape = [1, 270, 480]
    layer = {"name": "a", "kind": "b", "inputs": ["Half"], "weights": [], "outputs": ["Half"]}
    key = dict.fromkeys(["version", "gpu", "driver", "platform"], "x") | {
        "module": "tensorrt",
        "graph_sha256": 64 * "0",
        "profile": {"smallest": shape, "best": shape, "largest": shape},
        "compute_capabilities": ["8.9"],
        "workspace_mib": None,
        "optimization_level": 3,
    }
    record = {
        "spec": spec,
        "source": "x",
        "key": key,
        "precision": "fp16",
        "engine_sha256": 64 * "0",
        "build_seconds": 1.5,
        "parity": {"engine": {"psnr_db": 60.0}},
        "layers": [layer | {"onnx_nodes": ["n"]}],
    }
    return [json.dumps(record).encode()]


def _facts() -> list[bytes]:
    color = {"matrix": 1, "full_range": False, "primaries": 2, "transfer": 2, "assumed": []}
    record = {
        "width": 64,
        "height": 48,
        "time_base": [1, 25],
        "start_pts": 0,
        "average_rate": [25, 1],
        "duration_seconds": 1.0,
        "frames_stated": None,
        "codec": "h264",
        "bit_rate": None,
        "pixel_format": "yuv420p",
        "color": color,
        "hdr": {"display": None, "light_levels": [1000, 400]},
        "unkept": [],
        "sample_aspect_ratio": None,
        "display_matrix": [1] * 9,
        "interlaced": False,
        "states_length": True,
    }
    return [json.dumps(record).encode()]


TARGETS = {
    "image": Target(_read_image, (InputRefused, InputDamaged), _images),
    "video": Target(_read_video, (InputRefused, InputDamaged), _videos),
    "safetensors": Target(
        lambda content: safetensors_spec(Path("in"), content),
        (ModelRefused,),
        lambda: [_models(".safetensors")[0][:8192]],
    ),
    "statements": Target(
        _read_statements,
        (InputRefused, InputDamaged),
        lambda: [bytes([0, 0, kind]) for kind in range(5)],
    ),
    "onnx-edits": Target(
        _edited_onnx, (ModelRefused, UsageError, ResourcesExhausted), lambda: [bytes(3)]
    ),
    "onnx": Target(
        lambda content: read_onnx_spec(_file(content)), (ModelRefused,), lambda: _models(".onnx")
    ),
    "spec": Target(
        lambda content: ModelSpec.from_json(content.decode("utf-8", "replace")),
        (ModelRefused,),
        _specs,
    ),
    "passport": Target(
        lambda content: Passport.from_json(content.decode("utf-8", "replace")),
        (ModelRefused,),
        _passports,
    ),
    "wire": Target(
        lambda content: unpack(VideoInfo, json.loads(content)),
        (ValueError, RecursionError),
        _facts,
    ),
    "protocol": Target(
        lambda content: scripted_child.play(content, _file(b"a video or an image")),
        (
            *(InputRefused, InputDamaged, ChildFailed, ResourcesExhausted),
            ModelRefused,
            *(UsageError, OutputFailed),  # of the encoder, for what a video may be but it cannot
        ),
        scripted_child.seeds,
    ),
}
