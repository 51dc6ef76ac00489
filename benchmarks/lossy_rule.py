"""Measure from which bits a pixel on `edge-x4` beats `edge-real-x4` on compressed video, by codec.

    python benchmarks/lossy_rule.py ../shared/data/benchmarks/Set14 --clip clip.mp4

Pans over photographs and pieces of a clip, each reduced by 4, are coded at several qualities and
upscaled by both models. It prints a line of JSON for each, and for each codec the threshold that
loses the least PSNR-Y, with its confusion.
"""

import argparse
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np

from srgan_edge import bicubic
from srgan_edge.engines import choose_engine, open_engine
from srgan_edge.evaluation.metrics import psnr_y
from srgan_edge.evaluation.systems import SCALE, read_pairs
from srgan_edge.model.library import find_model
from srgan_edge.pixels import Pixels
from srgan_edge.train.sources import pan_over

FRAMES, JUDGED = 50, 30
CODECS: dict[str, list[dict[str, str]]] = {
    "libx264": [{"crf": crf} for crf in ("14", "18", "21", "24", "27", "31")],
    "libx265": [{"crf": crf, "x265-params": "log-level=none"} for crf in ("16", "20", "24", "29")],
    "libvpx-vp9": [{"crf": crf, "b": "0", "cpu-used": "5"} for crf in ("20", "30", "38", "48")],
    "libsvtav1": [{"crf": crf, "preset": "10"} for crf in ("20", "30", "40", "50")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--photos", type=int, default=8)
    arguments = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {codec: [] for codec in CODECS}
    with ExitStack() as life:
        plain, real = (
            life.enter_context(open_engine(choose_engine(find_model(name)), fp32=True))
            for name in ("edge-x4", "edge-real-x4")
        )
        for name, frames, hr in contents(arguments.benchmark, arguments.photos, arguments.clip):
            for codec, qualities in CODECS.items():
                for options in qualities:
                    bits_per_px, coded = recoded(frames, codec, options)
                    side = SCALE * coded.shape[0], SCALE * coded.shape[1]
                    truth = hr[: side[0], : side[1]]
                    gain = psnr_y(real.upscale(coded[None])[0], truth, SCALE) - psnr_y(
                        plain.upscale(coded[None])[0], truth, SCALE
                    )
                    results[codec].append((bits_per_px, gain))
                    facts = {"content": name, "codec": codec, **options}
                    facts |= {"bits_per_px": round(bits_per_px, 4), "gain_db": round(gain, 3)}
                    print(json.dumps(facts), flush=True)
    for codec, points in results.items():
        print(json.dumps({"codec": codec, **best_threshold(points)}))


def contents(
    benchmark: Path, photos: int, clip: Path | None
) -> Iterator[tuple[str, list[Pixels], Pixels]]:
    """Yield a name, LR frames and the HR image of the frame that is judged."""
    for pair in list(read_pairs(benchmark, SCALE))[:photos]:
        hr = pair.hr[: pair.hr.shape[0] // 8 * 8, : pair.hr.shape[1] // 8 * 8]
        yield pair.name, pan_over(hr, SCALE, FRAMES, JUDGED, (1, 3)), hr
    if clip is not None:
        with av.open(str(clip)) as container:
            frames = [it.to_ndarray(format="rgb24") for it in container.decode(video=0)]
        for start in range(0, len(frames) - FRAMES, FRAMES):
            piece = frames[start : start + FRAMES]
            height, width = (side // 8 * 8 for side in piece[0].shape[:2])
            piece = [frame[:height, :width] for frame in piece]
            small = [bicubic.resize(it, height // SCALE, width // SCALE) for it in piece]
            yield f"{clip.name} from {start}", small, piece[JUDGED]


def recoded(frames: list[Pixels], codec: str, options: dict[str, str]) -> tuple[float, Pixels]:
    """Return the bits a pixel of a coded video, and its frame that is judged."""
    file, coded_bytes = io.BytesIO(), 0
    height, width = frames[0].shape[:2]
    with av.open(file, "w", format="matroska") as video:
        stream = video.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"g": "250", **options}
        for pixels in [*frames, None]:
            frame = None
            if pixels is not None:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            for packet in stream.encode(frame):
                coded_bytes += packet.size
                video.mux(packet)
    file.seek(0)
    with av.open(file) as video:
        decoded = [it.to_ndarray(format="rgb24") for it in video.decode(video=0)]
    return 8 * coded_bytes / (len(frames) * height * width), decoded[JUDGED]


def best_threshold(points: list[tuple[float, float]]) -> dict[str, float]:
    """Return the threshold below which the model for compressed video loses the least, in all."""

    def lost_db(threshold: float) -> float:
        return sum(max(0.0, -gain if bits < threshold else gain) for bits, gain in points)

    thresholds = sorted({0.0, *(round(1.01 * bits, 4) for bits, _ in points)})
    best = min(thresholds, key=lost_db)
    wrong_real = [gain for bits, gain in points if bits < best and gain < 0]
    wrong_plain = [gain for bits, gain in points if bits >= best and gain > 0]
    return {
        "threshold_bits_per_px": best,
        "points": len(points),
        "taken_real_though_worse": len(wrong_real),
        "taken_plain_though_worse": len(wrong_plain),
        "mean_loss_db": round(lost_db(best) / len(points), 4),
        "always_plain_loss_db": round(lost_db(0) / len(points), 4),
        "always_real_loss_db": round(lost_db(1e9) / len(points), 4),
    }


if __name__ == "__main__":
    main()
