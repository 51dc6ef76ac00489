"""ONNX Runtime: the engine that runs almost anywhere."""

import os
from pathlib import Path
from typing import Self

import onnxruntime

from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import ModelRefused, UsageError
from srgan_edge.onnx_file import read_onnx_spec
from srgan_edge.pixels import Pixels

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeEngine:
    """The deployment ONNX in FP32, on the one provider that was asked for and no other."""

    def __init__(
        self, path: Path, device: str = "cpu", *, fp32: bool = False, slots: int = 1
    ) -> None:
        """Load a `.onnx` file onto `device` (`cpu`, `cuda`, `cuda:1`); FP32 in any case.

        Raises:
            ModelRefused: not our ONNX, or ONNX Runtime cannot load it.
            UsageError: this build of ONNX Runtime has no provider for the device.
        """
        spec = read_onnx_spec(path)
        kind, _, number = device.partition(":")
        provider = PROVIDERS[kind]
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise UsageError(
                f"onnxruntime here has no {provider} (it has {', '.join(available)}); "
                "type --device cpu, or: pip install 'srgan-edge[cuda]'"
            )
        options = {"device_id": number} if number else {}
        try:
            self._session = onnxruntime.InferenceSession(
                path, _session_options(slots), providers=[(provider, options)]
            )
        except Exception as error:  # its exceptions share no base class of their own
            raise ModelRefused(f"{path}: onnxruntime cannot load it: {error}") from None
        if self._session.get_providers()[0] != provider:
            raise UsageError(f"{provider} did not start, and nothing else was asked for")
        self._input = self._session.get_inputs()[0].name
        name = f"onnxruntime {onnxruntime.__version__}"
        self.info = EngineInfo(name, device, "fp32", spec, slots)

    def upscale(self, batch: Pixels) -> Pixels:
        result: Pixels = self._session.run(None, {self._input: batch})[0]
        return result

    def close(self) -> None:
        del self._session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _session_options(slots: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    if slots > 1:
        options.intra_op_num_threads = max(1, (os.cpu_count() or 1) // slots)
    options.log_severity_level = 3  # errors only; warnings about fallbacks cannot occur here
    # Idle threads that spin would take the cores from decoding and encoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
