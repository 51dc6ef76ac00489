"""Check videos on the GPU: NVDEC against software, NVENC, and a video that stays on the GPU."""

import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from pipeline import DEMO_CLIP, run_command

from srgan_edge.engines import choose_engine
from srgan_edge.engines.base import FrameEngine
from srgan_edge.kernels.rgb_to_yuv420 import rgb_to_yuv420
from srgan_edge.kernels.yuv420_to_rgb import yuv420_to_rgb
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.live.writer import VideoWriter
from srgan_edge.model.library import find_model
from srgan_edge.tiling import Tiling
from srgan_edge.transcode.on_gpu import GpuVideo, encoder_for
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.color import BT709, MATRICES
from srgan_edge.video.frame import CodedFrame, Encoding, Frame, FrameTime
from srgan_edge.video.nvidia import SOFTWARE, Nvdec, engines_context
from srgan_edge.video.reader import VideoReader

BASE = Fraction(1, 12800)
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3"}
CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", {"bf": "3", "crf": "18"}),
    "hevc": ("libx265", "yuv420p", X265),
    "hevc 10 bits": ("libx265", "yuv420p10le", X265),
    "vp9": ("libvpx-vp9", "yuv420p", {"b": "2M", "deadline": "realtime", "cpu-used": "8"}),
}
"""Codec, pixel format and options, by name."""


def make_clip(
    path: Path, codec: str, pixel_format: str, options: dict[str, str], size: tuple[int, int]
) -> Path:
    """Write 90 frames of moving, colored noise, at a variable rate, in BT.709."""
    width, height = size
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    image = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.time_base = stream.time_base = BASE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1
        for number in range(90):
            moved = np.roll(image, (number, 3 * number), (0, 1))
            frame = VideoFrame.from_ndarray(moved).reformat(
                format=pixel_format, dst_colorspace=BT709, dst_color_range=1
            )
            frame.pts, frame.time_base = 512 * number + 100 * (number % 3), BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def nvdec_equals_software(folder: Path) -> dict[str, str]:
    """Check that NVDEC returns the same frames, times and bytes as software for every clip."""
    found = {}
    for name, clip in CLIPS.items():
        path = make_clip(folder / f"{name}.mkv", *clip, (640, 360))
        with VideoReader(path, allow_8bit=True) as reader:
            begun = time.monotonic()
            expected = [item for item in reader if isinstance(item, Frame)]
            software = time.monotonic() - begun
        with VideoReader(path, allow_8bit=True, nvdec=Nvdec()) as reader:
            begun = time.monotonic()
            given = [item for item in reader if isinstance(item, Frame)]
            seconds = time.monotonic() - begun
        times = [(frame.pts, frame.duration) for frame in given]
        assert times == [(frame.pts, frame.duration) for frame in expected], name
        apart = max(_apart(a.pixels, b.pixels) for a, b in zip(given, expected, strict=True))
        assert apart == 0, f"{name}: {apart} levels apart"
        found[name] = f"{90 / seconds:.0f} frames/s, software {90 / software:.0f}"
    return found


def nvenc_keeps_frames(
    folder: Path, codec: str, size: tuple[int, int] = (1280, 720)
) -> dict[str, Any]:
    """Check that NVENC keeps frames and times at default quality; measure it and software."""
    path = make_clip(folder / "source.mkv", *CLIPS["h264"], size)
    with VideoReader(path) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
        ticks = reader.info.time_base
    found = {}
    for name in (codec, SOFTWARE[codec]):
        target = folder / f"{name}.mkv"
        begun = time.monotonic()
        with (
            VideoReader(path) as reader,
            VideoWriter(target, reader, size, Encoding(name)) as writer,
        ):
            for frame in frames:
                writer.write(frame)
        seconds = time.monotonic() - begun
        with VideoReader(target) as reader:
            back = [item for item in reader if isinstance(item, Frame)]
            base = reader.info.time_base
        late = [float(a.pts * base - b.pts * ticks) for a, b in zip(back, frames, strict=True)]
        assert max(map(abs, late)) < 0.001, "times have moved"
        pairs = zip(back, frames, strict=True)
        errors = [np.square(a.pixels - b.pixels.astype(np.float32)).mean() for a, b in pairs]
        found[name] = {
            "psnr_db": round(float(10 * np.log10(255**2 / np.mean(errors))), 2),
            "bytes": target.stat().st_size,
            "frames_s": round(len(frames) / seconds, 1),
        }
    assert found[codec]["psnr_db"] > found[SOFTWARE[codec]]["psnr_db"] - 3, found
    return found


def video_stays_on_the_gpu(
    folder: Path, engine: FrameEngine, size: tuple[int, int], codec: str
) -> dict[str, Any]:
    """Check that NVDEC, engine and encoder on the GPU equal the host memory path to the byte."""
    width, height = size
    path = make_clip(folder / "video.mkv", *CLIPS["h264"], (width, height))
    matrix = YuvMatrix(*MATRICES[BT709][1:], full_range=False)
    upscaler, scale = FrameUpscaler(engine, Tiling()), engine.info.spec.scale
    on_gpu = upscaler.gpu_engine
    assert on_gpu is not None
    plan, batch = upscaler.plan(width, height)
    with av.open(str(path)) as container:
        sources = [_planes(frame.reformat(format="nv12")) for frame in container.decode(video=0)]
    with VideoReader(path) as reader:
        info = reader.info
        times = [item for item in reader.scan() if isinstance(item, FrameTime)]
    encoder = encoder_for(info, (scale * width, scale * height), Encoding(codec))
    target, worst = folder / "video-out.mkv", 0
    with GpuVideo(on_gpu, plan, batch, matrix) as video:
        with av.open(str(target), "w") as container:
            encoder.add_to(container)
            begun = time.monotonic()
            for number, frame in enumerate(_decoded_on_gpu(path)):
                upscaled = video.upscale(frame)
                if number % 30 == 0:  # checked here, and excluded from the time
                    paused = time.monotonic()
                    rgb = upscaler.upscale(yuv420_to_rgb(*sources[number], matrix))
                    pairs = zip(_planes(upscaled), rgb_to_yuv420(rgb, matrix), strict=True)
                    worst = max(worst, *(_apart(ours, theirs) for ours, theirs in pairs))
                    begun += time.monotonic() - paused
                if codec not in SOFTWARE:
                    upscaled = upscaled.reformat(format="nv12").reformat(format="yuv420p")
                container.mux(encoder.encode(CodedFrame(upscaled, *times[number])))
                del upscaled
            container.mux(encoder.finish())
            seconds = time.monotonic() - begun
        assert worst == 0, f"{worst} levels apart"
    with VideoReader(target) as reader:
        assert reader.info.color == info.color, reader.info.color
        back = [item for item in reader.scan() if isinstance(item, FrameTime)]
        ticks = reader.info.time_base
    late = [a.pts * ticks - b.pts * info.time_base for a, b in zip(back, times, strict=True)]
    assert max(map(abs, late)) < Fraction(1, 1000), "times have moved"
    return {"size": f"{width}x{height}", "frames_s": round(len(times) / seconds, 1)}


def video_by_command(folder: Path, model: str, size: tuple[int, int]) -> dict[str, Any]:
    """Measure frames per second of `srgan-edge upscale` on a video, without opening the engine."""
    path = _enlarged_demo(folder / "video.mp4", size, 600)
    choice, found = choose_engine(find_model(model), "torch"), {}
    for decoder in ("cpu", "gpu"):
        fps, peak_mb, _ = run_command(path, choice, 0, folder, "--decode", decoder)
        found[f"decoded by the {decoder}"] = {"frames_s": round(fps, 1), "peak_mb": round(peak_mb)}
    return found


def _enlarged_demo(path: Path, size: tuple[int, int], frames: int) -> Path:
    """Write the demo clip, played forwards and backwards, in another size."""
    width, height = size
    with av.open(str(DEMO_CLIP)) as container:
        images = [it.reformat(width, height, "yuv420p") for it in container.decode(video=0)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, image in zip(range(frames), cycle([*images, *images[-2:0:-1]])):
            image.pts, image.time_base = number, Fraction(1, 25)
            image.pict_type = PictureType.NONE  # lets the encoder choose
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


def _decoded_on_gpu(path: Path) -> Iterator[VideoFrame]:
    with av.open(str(path), hwaccel=engines_context()) as container:
        for frame in container.decode(video=0):
            assert frame.format.name == "cuda", f"FFmpeg decoded to {frame.format.name}"
            yield frame


def _planes(frame: VideoFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return luma and chroma of a frame in NV12, downloaded if it is on the GPU."""
    luma, chroma = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
        for plane in frame.reformat(format="nv12").planes
    )
    height, width = frame.height, frame.width
    return luma[:, :width], chroma[:, :width].reshape(height // 2, width // 2, 2)


def _apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())
