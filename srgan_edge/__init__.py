"""srgan-edge: train an SRGAN, export its generator, and upscale images and video with it.

Importing this package loads neither torch, PyAV nor an inference runtime; each of them is imported
by the one module that is about it, when that module is first used.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srgan_edge.api import BundledModel, FileReport, Progress, Upscaler, models, upscale
else:

    def __getattr__(name: str) -> object:
        """Load the Python API when one of its names is first used."""
        if name in __all__:
            return getattr(import_module("srgan_edge.api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = ["BundledModel", "FileReport", "Progress", "Upscaler", "models", "upscale"]

__version__ = "0.1.0"

# OpenVINO reports each import of itself to Google Analytics, and writes ~/intel, unless its
# reporter cannot be imported. Nothing here speaks to a network that was not asked to.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# ONNX Runtime reports each process to Microsoft, from version 1.29 on, unless this is set before it
# is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a checkout train/, export/ and kernels/ lie beside this folder; in a wheel they lie inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))
