"""Choose the model for `-n auto`: by the device, the kind of source and how it was compressed."""

from contextlib import suppress
from dataclasses import dataclass

from srgan_edge.engines import choose_engine
from srgan_edge.errors import SrganEdgeError, UsageError
from srgan_edge.image.coding import Coding
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs.plan import Job, Kind, Options
from srgan_edge.jobs.size import Source
from srgan_edge.model.library import bundled_models, find_model, registered_models
from srgan_edge.transcode.work_folder import begun_with
from srgan_edge.video.endpoint import Address
from srgan_edge.video.frame import VideoInfo

SCALE = 4
"""Scale of the models that are chosen where no other one was asked for."""

AUTO = "auto"
"""Name of the model that stands for this choice."""

CRISP = "srgan-x4"
EXACT, QUICK = "edge-l-x4", "edge-x4"
"""On a CPU: for images and for videos."""
CRISP_FOR_LOSSY, EXACT_FOR_LOSSY, FOR_LOSSY = "srgan-real-x4", "edge-l-real-x4", "edge-real-x4"
"""For compressed sources: images on a GPU, images on a CPU, and videos."""

LOSSY_BELOW_BITS_PER_PX = {"h264": 0.19, "hevc": 0.085, "vp9": 0.14, "av1": 0.10}
"""Codec -> bits a pixel below which `FOR_LOSSY` is better on average. Measured, with the confusion,
by `benchmarks/lossy_rule.py`: see docs/models.md. Other codecs count as H.264."""


@dataclass(frozen=True)
class Suited:
    """A model, and why it was taken."""

    model: str
    reason: str


def suited_to(kind: Kind, coding: Coding, scale: float = SCALE, *, on_gpu: bool) -> Suited:
    """Return the model for a source: compression artifacts first, then what the device can do.

    Args:
        scale: of the result; where a known model has it, nothing is enlarged more and reduced.
    """
    device = "on a GPU" if on_gpu else f"{'an image' if kind == 'image' else 'a video'} on a CPU"
    if coding.is_lossy:
        of_images = CRISP_FOR_LOSSY if on_gpu else EXACT_FOR_LOSSY
        return Suited(of_images if kind == "image" else FOR_LOSSY, coding.name)
    if scale != SCALE and (fitting := _model_of(scale)):
        return Suited(fitting, f"{coding.name}, and a model of this scale")
    on_a_cpu = EXACT if kind == "image" else QUICK
    return Suited(CRISP if on_gpu else on_a_cpu, f"{coding.name}, {device}")


def suited_to_job(job: Job, options: Options, images: ImageProcess) -> Suited:
    """Return the model for a job; a video that was begun earlier keeps the one it was begun with.

    A file that cannot be read gets any model: upscaling it will report why.

    Raises:
        SrganEdgeError: no engine runs on the device that was asked for.
    """
    is_file = job.kind == "video" and not job.is_stream
    if is_file and not options.restart and begun_with(job.target) in bundled_models():
        return Suited(str(begun_with(job.target)), "as in the run that is resumed")
    (coding, source), on_gpu = _read(job, options, images), is_on_gpu(options)
    scale = options.outscale if source is None else _factor(options, source)
    return suited_to(job.kind, coding, SCALE if scale is None else scale, on_gpu=on_gpu)


def is_on_gpu(options: Options) -> bool:
    """Return True if the engine that the options lead to runs on a GPU."""
    return choose_engine(find_model(CRISP), options.engine, options.device).device != "cpu"


def coding_of_video(info: VideoInfo) -> Coding:
    """Return the coding of a video stream, which is lossy if its bits a pixel are few."""
    bits = info.bits_per_px
    if bits is None:
        return Coding(f"{info.codec} of unknown bit rate", False)
    fewest = LOSSY_BELOW_BITS_PER_PX.get(info.codec, LOSSY_BELOW_BITS_PER_PX["h264"])
    return Coding(f"{info.codec} of {bits:.2g} bits a pixel", bits < fewest)


def _model_of(scale: float) -> str | None:
    """Return a registered or else bundled model of a scale, which is in its name, `-x2`."""
    known = [*registered_models(), *bundled_models()]
    return next((name for name in known if name.endswith(f"-x{scale:g}")), None)


def _factor(options: Options, source: Source) -> float | None:
    with suppress(UsageError):  # raised again, and with all its advice, by the job itself
        return options.factor(source)
    return None


def _read(job: Job, options: Options, images: ImageProcess) -> tuple[Coding, Source | None]:
    """Return how a source was compressed, and its sides, if it can be read more than once."""
    if isinstance(job.inlet, Address):
        return Coding("a stream from the network", True), None
    if job.inlet is not None:
        return Coding("a pipe", False), None
    try:
        if job.kind == "image":
            with images.open(job.source) as image:
                return image.coding, Source(image.width, image.height)
        with IsolatedReader(job.source, **options.reading) as reader:
            return coding_of_video(reader.info), Source.of_video(reader.info)
    except (SrganEdgeError, OSError):
        return Coding("unreadable", False), None
