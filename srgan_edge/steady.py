"""Steady detail: keep the texture of an upscaled video from one frame to the next.

A generator draws detail that its input does not determine, and draws it anew in every frame. Here
the last result is moved along with what it shows, and its detail is kept wherever the two inputs
agree. The means of the input's pixels stay those of the current frame: what the input determines is
never taken from another frame. Nothing is kept after a cut, where the inputs differ, or beyond
`MOST_LEVELS`. Detail is that of luma: colors are those of the frame itself.

The idea is that of recursive filters with motion compensation (Dubois and Sabri 1984; MVDegrain of
MVTools), with a limit instead of an average: an average of several textures is none.
"""

import io
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from srgan_edge.errors import ExtraMissing, HostMemoryExhausted, UsageError
from srgan_edge.machine import host_memory_bytes
from srgan_edge.pixels import Gray, Pixels

Steady: TypeAlias = float | Literal["auto"]
"""Strength from 0 (off) to 1; auto: `AUTO_STRENGTH` for models that draw their own detail."""

AUTO_STRENGTH = 0.5

MOST_LEVELS = 48.0
"""Most by which kept detail may differ from the frame's own at strength 1, in levels of 255."""

MOST_SHARPENING = 0.5
"""Most of its finest detail that is added to a frame once more: moving blurs. Never more than the
frame's own result has nearby."""

NEARBY_PX = 8
"""Side of the area, in LR pixels, in which the finest details of two results are compared."""

CERTAIN_LEVELS, DOUBTFUL_LEVELS = 2.0, 8.0
"""Differences of the two inputs, means of 3x3 pixels, up to which they agree entirely, and from
which on they do not agree at all."""

LEAST_SHARE = 0.4
"""Share of a frame that has to agree with the one before; below, it is another scene."""

REQUIREMENT = "srgan-edge[steady]"

PX_BYTES = 32
"""Memory for each pixel of a result while it is steadied, and until the next one is."""

_BAND_ROWS, _MARGIN_ROWS = 96, 6  # in LR pixels
_LEAST_DETAIL = 0.2  # levels: less is rounding

_Floats: TypeAlias = npt.NDArray[np.float32]

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Steadied:
    """A frame and its result, which the next frame is steadied by."""

    source: Pixels
    """uint8 [H, W, 3]."""
    kept: Gray
    """Luma of the result before it was sharpened, uint8 [sH, sW]."""
    shown: Pixels
    """uint8 [sH, sW, 3], the result."""

    def to_bytes(self) -> bytes:
        """Return what `steadied_from_bytes` makes the same of."""
        file = io.BytesIO()
        np.savez(file, source=self.source, kept=self.kept, shown=self.shown)
        return file.getvalue()


@dataclass(frozen=True, eq=False)
class Motion:
    """The places of the pixels of a frame in the frame before, and how certain they are."""

    flow: _Floats
    """Backward flow of `srgan_edge.motion`, in LR pixels."""
    trust: _Floats
    """float32 [H, W], from 0 to 1."""


def steadied_from_bytes(content: bytes) -> Steadied:
    """Return the frame that `to_bytes` was called for."""
    with np.load(io.BytesIO(content)) as arrays:
        return Steadied(arrays["source"], arrays["kept"], arrays["shown"])


def steady_from_text(text: str) -> Steady:
    """Parse what is typed after `--steady`.

    Raises:
        UsageError: neither `off`, `auto` nor a number from 0 to 1.
    """
    if text == "auto":
        return "auto"
    try:
        strength = 0.0 if text == "off" else float(text)
    except ValueError:
        strength = -1.0
    return refuse_strength(strength, f"--steady {text}", "off, auto, or a number from 0 to 1")


def refuse_strength(strength: float, what: str, possible: str) -> float:
    """Return a strength from 0 to 1, or raise a `UsageError`."""
    if not 0 <= strength <= 1:
        raise UsageError(f"{what}; possible: {possible}")
    return strength


def strength_of(chosen: Steady) -> float:
    """Return the strength that `auto` stands for once a model is open; a number is itself."""
    assert chosen != "auto", "callers choose a strength first"
    return chosen


def chosen_strength(wanted: Steady, *, suits: bool) -> float:
    """Return the strength for a model on an engine, from 0 to 1.

    Args:
        suits: `auto` stands for a strength, not for 0.

    Raises:
        ExtraMissing: OpenCV is not installed, and a strength was asked for.
    """
    if wanted == "auto":
        return AUTO_STRENGTH if suits and find_spec("cv2") else 0.0
    if wanted and not find_spec("cv2"):
        raise ExtraMissing("cv2", REQUIREMENT, f"--steady {wanted:g}")
    return wanted


def recorded(strength: float) -> dict[str, float | str]:
    """Return what determines the pixels of steadied videos, as JSON values."""
    if not strength:
        return {"steady": 0.0}
    import cv2

    return {"steady": strength, "opencv": cv2.__version__}


def refuse_too_large(width: int, height: int) -> None:
    """Refuse results, of a size in pixels, that leave no memory for anything else.

    Raises:
        HostMemoryExhausted: they take more than half of the memory of this machine.
    """
    if PX_BYTES * width * height > host_memory_bytes() // 2:
        raise HostMemoryExhausted(
            f"steadying frames of {width}x{height} takes {PX_BYTES * width * height >> 20} MiB, "
            "more than half of the memory; type --steady off"
        )


class Steadier(Generic[Item]):
    """Steadies the frames of one video, each by the one before.

    `link` is called in one thread, in the order of the frames. `steadied` may be called in several
    threads at once, but has to begin with the frames in their order: it waits for the one before.
    """

    def __init__(
        self,
        strength: float,
        last: Steadied | None = None,
        keeps: Callable[[int], bool] | None = None,
    ) -> None:
        """
        Args:
            last: the frame before the first one; None: there is none.
            keeps: for the number of a frame, from 0, whether `state_after` it will be asked for.
        """
        self._strength, self._keeps = strength, keeps
        self._last: Link[Item] | None = None
        self._number = 0
        self._kept: dict[int, Steadied] = {}
        self._keeping = threading.Lock()
        if last is not None:
            self._first: Future[Steadied] | None = Future()
            self._first.set_result(last)
        else:
            self._first = None

    def link(self, item: Item) -> "Link[Item]":
        """Connect the next frame with the one before it."""
        before = self._first if self._last is None else self._last.done
        link = Link(item, self._number, before)
        self._last, self._number = link, self._number + 1
        return link

    def steadied(self, link: "Link[Item]", source: Pixels, upscale: Callable[[], Pixels]) -> Pixels:
        """Upscale a frame and steady the result: uint8 [sH, sW, 3].

        Args:
            source: the frame, uint8 [H, W, 3].
            upscale: returns its own result, uint8 [sH, sW, 3].
        """
        try:
            raw = upscale()
            last = None if link.before is None else link.before.result()
            done = next_steadied(source, raw, last, self._strength)
        except BaseException as error:
            link.done.set_exception(error)
            raise
        link.before = None  # or every frame would hold all frames before it
        if self._keeps is not None and self._keeps(link.number):
            with self._keeping:
                self._kept[link.number] = done
        link.done.set_result(done)
        return done.shown

    def state_after(self, number: int) -> Steadied:
        """Return, once, a frame that `keeps` was true for, and forget it."""
        with self._keeping:
            return self._kept.pop(number)


@dataclass(eq=False)
class Link(Generic[Item]):
    """A frame, and the one before it."""

    item: Item
    number: int
    before: "Future[Steadied] | None"
    done: "Future[Steadied]" = field(default_factory=Future)


def next_steadied(source: Pixels, raw: Pixels, last: Steadied | None, strength: float) -> Steadied:
    """Return a frame steadied by the last one.

    A frame that repeats the last one is shown as that was. One that shows something else, or has
    another size, is its own result, bit for bit.
    """
    if last is None or last.source.shape != source.shape or last.kept.shape != raw.shape[:2]:
        return _unchanged(source, raw)
    if np.array_equal(last.source, source):
        return Steadied(source, last.kept, last.shown)
    motion = motion_between(last.source, source)
    if motion is None:
        return _unchanged(source, raw)
    return Steadied(source, *mixed(raw, last.kept, motion, strength))


def _unchanged(source: Pixels, raw: Pixels) -> Steadied:
    """Return a frame that is shown as its own result."""
    from srgan_edge.motion import gray

    return Steadied(source, gray(raw), raw)


def motion_between(before: Pixels, now: Pixels) -> Motion | None:
    """Return the motion between two frames, uint8 [H, W, 3]; None if they are different scenes."""
    from srgan_edge import motion

    earlier, later = motion.gray(before), motion.gray(now)
    flow = motion.dense_flow(earlier, later)
    residual = np.abs(later - motion.moved(earlier.astype(np.float32), flow).astype(np.float32))
    trust = (DOUBTFUL_LEVELS - _mean_of_3x3(residual)) / (DOUBTFUL_LEVELS - CERTAIN_LEVELS)
    trust = trust.clip(0, 1) * _inside(flow)
    if trust.mean() < LEAST_SHARE:
        return None
    return Motion(flow, trust.astype(np.float32))


def mixed(raw: Pixels, last: Gray, motion: Motion, strength: float) -> tuple[Gray, Pixels]:
    """Keep the detail of the last luma, uint8 [sH, sW], in a frame, uint8 [sH, sW, 3].

    Returns:
        The luma of the frame with that detail; and the frame with it, sharpened where mixing has
        lost detail. Computed in bands of rows.
    """
    height = motion.flow.shape[0]
    scale = raw.shape[0] // height
    kept, shown = np.empty_like(last), np.empty_like(raw)
    for top in range(0, height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, height)
        first, stop = max(0, top - _MARGIN_ROWS), min(height, bottom + _MARGIN_ROWS)
        wide = slice(scale * first, scale * stop)
        inner = slice(scale * (top - first), scale * (bottom - first))
        band = slice(scale * top, scale * bottom)
        part = Motion(motion.flow[first:stop], motion.trust[first:stop])
        both = mixed_band(raw[wide], last, part, strength, scale * first)
        kept[band], shown[band] = (pixels[inner] for pixels in both)
    return kept, shown


def mixed_band(
    raw: Pixels, last: Gray, motion: Motion, strength: float, top: int = 0
) -> tuple[Gray, Pixels]:
    """Do the same as `mixed` with the rows from `top` on; `last` is the whole luma."""
    import cv2

    from srgan_edge.motion import gray, moved

    rows, columns = motion.flow.shape[:2]
    height, width, _ = raw.shape
    scale, size = height // rows, (width, height)
    flow = scale * cv2.resize(motion.flow, size, interpolation=cv2.INTER_LINEAR)
    own = gray(raw).astype(np.float32)
    change = np.subtract(moved(last, flow, top, kernel=cv2.INTER_CUBIC), own)
    # What the input determines, the means of its pixels, stays that of the frame itself.
    means = cv2.resize(change, (columns, rows), interpolation=cv2.INTER_AREA)
    change -= cv2.resize(means, size, interpolation=cv2.INTER_LINEAR)
    most = MOST_LEVELS * strength
    np.clip(change, -most, most, out=change)
    change *= cv2.resize(motion.trust, size, interpolation=cv2.INTER_LINEAR)
    mixed_luma = own + change
    finest = _finest(mixed_luma, scale)
    lost = _nearby(_finest(own, scale), scale) / _nearby(finest, scale) - 1
    sharpening = motion.trust * np.clip(lost, 0, MOST_SHARPENING)
    finest *= cv2.resize(sharpening, size, interpolation=cv2.INTER_LINEAR)
    change += finest
    shown = cv2.add(raw, cv2.merge([change, change, change]), dtype=cv2.CV_8U)
    return _bytes_of(mixed_luma), np.asarray(shown, np.uint8)


def _finest(luma: _Floats, scale: int) -> _Floats:
    """Return float32 [H, W] without what a narrow Gaussian leaves of it."""
    import cv2

    return np.subtract(luma, cv2.GaussianBlur(luma, (0, 0), scale / 4))


def _nearby(detail: _Floats, scale: int) -> _Floats:
    """Return the detail around each LR pixel of [sH, sW], in levels: float32 [H, W]."""
    import cv2

    height, width = detail.shape
    size = (width // scale, height // scale)
    amount = cv2.resize(np.abs(detail), size, interpolation=cv2.INTER_AREA)
    side = NEARBY_PX + 1
    return np.asarray(cv2.blur(amount, (side, side)), np.float32) + np.float32(_LEAST_DETAIL)


def _mean_of_3x3(plane: _Floats) -> _Floats:
    import cv2

    return np.asarray(cv2.blur(plane, (3, 3)), np.float32)


def _inside(flow: _Floats) -> npt.NDArray[np.bool_]:
    """Return where a flow points into the frame, bool [H, W]."""
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    inside: npt.NDArray[np.bool_] = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside


def _bytes_of(levels: _Floats) -> Gray:
    """Round to uint8; `levels` is overwritten."""
    import cv2

    np.clip(levels, 0, 255, out=levels)
    return np.asarray(cv2.convertScaleAbs(levels), np.uint8)
