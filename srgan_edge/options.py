"""Everything `upscale` can be told besides which files."""

from dataclasses import dataclass
from typing import Literal

from srgan_edge.image_file import MAX_PIXELS
from srgan_edge.nvdec import Decoder
from srgan_edge.tiling import Tiling
from srgan_edge.video import Encoding, ReaderOptions


@dataclass(frozen=True)
class Options:
    """As asked for on the command line."""

    model: str
    encoding: Encoding
    tiling: Tiling
    engine: str = "auto"
    device: str = "auto"
    fp32: bool = False
    outscale: float | None = None
    """Final scale; None: the model's."""
    decode: Decoder = "cpu"
    """Where films are decoded; auto: on the GPU, if the engine is there."""
    existing: Literal["refuse", "replace", "keep"] = "refuse"
    """What to do where a result already exists."""
    color_lock: bool | None = None
    """Hold the mean colours of the input; None: if the model may shift them."""
    on_damage: Literal["skip", "conceal"] = "skip"
    """What becomes of frames that cannot be decoded: left out, or shown as the one before."""
    deinterlace: bool = False
    """Make pictures of two fields into pictures of one moment, before they are upscaled."""
    live: bool = False
    """Rather drop frames than be late."""
    restart: bool = False
    """Forget what an earlier run has done of a film."""
    max_pixels: int = MAX_PIXELS
    """Largest picture, all frames of an animation together; a result may have 16 times as many."""

    def final_size(self, width: int, height: int, scale: int) -> tuple[int, int]:
        """Width and height in pixels of the result of a model of that scale."""
        factor = scale if self.outscale is None else self.outscale
        return max(1, round(width * factor)), max(1, round(height * factor))

    @property
    def reading(self) -> ReaderOptions:
        """What readers of films are told."""
        return {
            "allow_8bit": self.encoding.accepts_8bit,
            "allow_opaque": self.encoding.accepts_opaque,
            "conceal": self.on_damage == "conceal",
            "deinterlace": self.deinterlace,
        }
