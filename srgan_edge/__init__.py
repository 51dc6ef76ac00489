"""srgan-edge: train an SRGAN, export its generator, and upscale images and video with it.

Importing this package loads neither torch, PyAV nor an inference runtime; each of them is imported
by the one module that is about it, when that module is first used.
"""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout train/, export/ and kernels/ lie beside this folder; in a wheel they lie inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))
