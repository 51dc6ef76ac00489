"""Make the small files that the pages name, for `run_pages.py`: `samples.py FOLDER`.

It runs in the environment of the wheel alone, and cuts everything from the bundled video and
photograph, but for the weights of a VGG, which are random.
"""

import json
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from PIL import Image

import srgan_edge

DEMO = Path(srgan_edge.__file__).parent / "demo"
FRAMES = 8
RATE = 25
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of the convolutions; 0 is a pooling."""


def main(folder: Path) -> None:
    photo = Image.open(DEMO / "photo.png").convert("RGB")
    _photographs(folder, photo)
    _benchmarks(folder, photo)
    for name in ("video.mp4", "holiday.mp4", "video.mkv", "in.mp4", "videos/one.mkv"):
        write_video(folder / name, with_audio=True)
    write_video(folder / "old.nut", with_audio=True)
    write_video(folder / "clip.mkv", pix_fmt="yuv420p")
    write_video(folder / "deep.mkv", codec="ffv1", pix_fmt="yuv422p12le")
    write_damaged_video(folder / "damaged.mkv")
    write_vgg(folder / "vgg16.safetensors")
    (folder / "my-recipe.toml").write_text(
        '[model]\nname = "mine-x4"\narchitecture = "edge"\nchannels = 8\nblocks = 2\n'
        'licence = "Apache-2.0"\n\n[pixel]\nsteps = 100\nl1 = 1.0\n'
    )


def _photographs(folder: Path, photo: Image.Image) -> None:
    small = photo.resize((60, 45))
    for name in ("photo.jpg", "photo.png", "more/a.jpg", "more/b.jpg", "small/a.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        small.save(path)
    deep = np.asarray(small.convert("L"), np.uint16) * 257 + 3
    Image.fromarray(deep).save(folder / "scan.tif")
    small.save(folder / "map.tif")
    small.save(folder / "phone.avif")
    frames = [small.rotate(angle).quantize() for angle in (0, 90, 180)]
    frames[0].save(folder / "sticker.gif", save_all=True, append_images=frames[1:], duration=100)
    for name in ("photos", "images"):
        (folder / name).mkdir()
        for index, box in enumerate([(0, 0, 120, 120), (120, 0, 240, 120), (60, 60, 180, 180)]):
            photo.crop(box).save(folder / name / f"{index}.png")


def _benchmarks(folder: Path, photo: Image.Image) -> None:
    for benchmark in ("Set5", "Set14", "benchmarks/Set5"):
        for index, left in enumerate((0, 112)):
            hr = photo.crop((left, 0, left + 128, 128))
            lr = hr.resize((32, 32), Image.Resampling.BICUBIC)
            images = [
                (f"{benchmark}/HR", hr),
                (f"{benchmark}/LRx4", lr),
                (f"results/{benchmark}", hr),
            ]
            for name, image in images:
                path = folder / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)


def write_video(
    path: Path, codec: str = "libx264", pix_fmt: str = "yuv420p", *, with_audio: bool = False
) -> None:
    """Write the first frames of the bundled video at 64x36, with silence if it shall have audio."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(DEMO / "clip.mp4")) as source, av.open(str(path), "w") as target:
        video = cast(av.VideoStream, target.add_stream(codec, rate=RATE))
        video.width, video.height, video.pix_fmt = 64, 36, pix_fmt
        video.codec_context.gop_size = 1
        audio = target.add_stream("aac", rate=48_000, layout="stereo") if with_audio else None
        for index, frame in enumerate(source.decode(video=0)):
            if index == FRAMES:
                break
            small = frame.reformat(64, 36, pix_fmt)
            small.pts, small.time_base = index, Fraction(1, RATE)
            target.mux(video.encode(small))
        target.mux(video.encode(None))
        if audio:
            count = 48_000 * FRAMES // RATE // 1024 + 1
            for index in range(count):
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((2, 1024), np.float32), format="fltp", layout="stereo"
                )
                silence.sample_rate, silence.pts = 48_000, index * 1024
                target.mux(audio.encode(silence))
            target.mux(audio.encode(None))


def write_damaged_video(path: Path) -> None:
    """Write a video of which one frame is noise and cannot be decoded."""
    write_video(path, codec="ffv1", pix_fmt="yuv420p")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    noise = np.random.default_rng(0).bytes(len(packets[FRAMES // 2]))
    path.write_bytes(path.read_bytes().replace(packets[FRAMES // 2], noise))


def write_vgg(path: Path) -> None:
    """Write a VGG16 with random weights, under the names that torchvision has."""
    generator = np.random.default_rng(0)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    channels, layer = 3, 0
    for width in VGG16:
        if width == 0:
            layer += 1
            continue
        spread = (2 / (channels * 9)) ** 0.5
        weights = generator.standard_normal((width, channels, 3, 3), np.float32) * spread
        tensors[f"features.{layer}.weight"] = weights.astype(np.float32)
        tensors[f"features.{layer}.bias"] = np.zeros(width, np.float32)
        channels, layer = width, layer + 2
    header: dict[str, dict[str, str | Sequence[int]]] = {}
    start = 0
    for name, values in tensors.items():
        end = start + values.nbytes
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
