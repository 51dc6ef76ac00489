"""The work that an `upscale` command would have: frames of videos, and pixels of images.

Headers are read for a few seconds; what was not looked at by then is estimated and said.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srgan_edge.errors import SrganEdgeError
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs.plan import Job, Options

LOOK_SECONDS = 2.0
"""Time for reading headers, of videos and of images each."""


@dataclass
class Workload:
    """Everything that is to be upscaled, as far as headers tell."""

    videos: int = 0
    video: Path | None = None
    """The video with most pixels in all its frames, which is measured."""
    video_share: float = 1.0
    """All pixels of all videos, divided by those of `video`."""
    images: int = 0
    image: Path | None = None
    """The largest image, which is measured."""
    megapixels: float = 0.0
    """Pixels of all images together, in millions."""
    unknown: list[str] = field(default_factory=list)
    """One line for each thing that cannot be known."""

    @classmethod
    def of(cls, jobs: Sequence[Job], options: Options, images: ImageProcess) -> "Workload":
        """Look at the files of jobs."""
        work = cls()
        work._look_at_videos([job.source for job in jobs if job.kind == "video"], options)
        work._look_at_images([job.source for job in jobs if job.kind == "image"], images)
        return work

    def _look_at_videos(self, paths: Sequence[Path], options: Options) -> None:
        self.videos = len(paths)
        began, looked = time.monotonic(), 0
        pixels: dict[Path, int] = {}
        for path in paths:
            if looked and time.monotonic() - began > LOOK_SECONDS:
                break
            looked += 1
            try:
                with IsolatedReader(path, **options.reading) as reader:
                    info = reader.info
            except SrganEdgeError as error:
                self.unknown.append(str(error))
                continue
            pixels[path] = (info.frames_expected or 0) * info.width * info.height
            if not pixels[path] and len(paths) > 1:
                self.unknown.append(f"{path.name} does not state its length: not counted")
        if pixels:
            self.video = max(pixels, key=lambda path: pixels[path])
            known = sum(pixels.values()) * len(paths) / looked
            self.video_share = known / pixels[self.video] if pixels[self.video] else 1.0
        if looked < len(paths):
            self.unknown.append(f"{looked} of {len(paths)} videos were looked at")

    def _look_at_images(self, paths: Sequence[Path], images: ImageProcess) -> None:
        self.images = len(paths)
        began, largest, looked, readable = time.monotonic(), 0, 0, 0
        for path in paths:
            if looked and time.monotonic() - began > LOOK_SECONDS:
                break
            looked += 1
            try:
                with images.open(path) as image:
                    pixels = image.width * image.height
                    frames = image.frames
            except SrganEdgeError as error:
                self.unknown.append(str(error))
                continue
            readable += 1
            self.megapixels += pixels * frames / 1e6
            if pixels > largest:
                largest, self.image = pixels, path
        if looked < len(paths):
            self.megapixels *= len(paths) / looked
            self.unknown.append(f"{looked} of {len(paths)} images were looked at")
