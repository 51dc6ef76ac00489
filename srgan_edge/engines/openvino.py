"""OpenVINO: the default engine where there is no GPU."""

from pathlib import Path
from typing import Any, Self

import openvino

from srgan_edge.artefact import read_onnx_spec
from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import ModelRefused
from srgan_edge.pixels import Pixels

# The model is compiled for each input shape: on a CPU that is a quarter to a third faster than one
# compiled for every shape. A video has one shape, or two with a shorter last batch.
_SHAPES_KEPT = 2


class OpenVinoEngine:
    """The deployment ONNX on the CPU, in BF16 where the CPU computes it natively, else FP32."""

    def __init__(self, path: Path, device: str = "cpu", *, fp32: bool = False) -> None:
        """Load a `.onnx` file; `fp32` forbids BF16.

        Raises:
            ModelRefused: not our ONNX, or OpenVINO cannot read it.
        """
        spec = read_onnx_spec(path)
        self._core = openvino.Core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        precision = "bf16" if "BF16" in capabilities and not fp32 else "fp32"
        # Pinned in either case: left alone, the runtime chooses by CPU and tells nobody.
        hint = {"bf16": "bf16", "fp32": "f32"}[precision]
        self._config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            raise ModelRefused(f"{path}: OpenVINO cannot read it: {_first_line(error)}") from None
        self._requests: dict[tuple[int, ...], Any] = {}
        version = openvino.__version__.split("-")[0]
        self.info = EngineInfo(f"openvino {version}", device, precision, spec)

    def upscale(self, batch: Pixels) -> Pixels:
        request = self._requests.get(batch.shape) or self._compile(batch.shape)
        result: Pixels = request.infer([batch], share_inputs=True)[0]
        return result

    def close(self) -> None:
        self._requests.clear()
        del self._model, self._core

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _compile(self, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - openvino.InferRequest
        while len(self._requests) >= _SHAPES_KEPT:
            del self._requests[next(iter(self._requests))]
        model = self._model.clone()
        model.reshape(list(shape))
        compiled = self._core.compile_model(model, "CPU", self._config)
        self._requests[shape] = compiled.create_infer_request()
        return self._requests[shape]


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))
