"""TensorRT's log: its calls return None when they fail; only the log has the reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Failure:
    """One kind of failure: TensorRT's message and ours."""

    pattern: re.Pattern[str]
    sentence: str
    """Our message; braces are groups of the pattern."""
    remedy: str = ""
    """Advice to the user; empty: build the engine again."""


FAILURES = [
    Failure(re.compile(pattern, re.DOTALL), sentence, remedy)
    for pattern, sentence, remedy in [
        (
            r"incompatible device, expecting compute (?P<here>\S+) got compute (?P<there>[\d.]+)",
            "it was built for compute capability {there}, and this GPU has {here}",
            "",
        ),
        (
            r"expecting library version (?P<here>[\d.]+) got (?P<there>[\d.]+)",
            "TensorRT {there} built it, and here is {here}",
            "",
        ),
        (
            r"Current Version: (?P<here>\d+), Serialized Engine Version: (?P<there>\d+)",
            "another version of TensorRT built it: its format is {there}, and {here} is read here",
            "",
        ),
        (
            r"magicTag\w* == \S*MAGIC_TAG|Magic tag does not match",
            "it is no engine of this runtime, or only a part of one",
            "",
        ),
        (
            r"Expected compute capability >= (?P<there>[\d.]+)",
            "it was built for compute capability {there} or more, which this GPU lacks",
            "",
        ),
        (
            r"cannot run on this GPU, which has compute capability (?P<here>\d+\.\d+)"
            r".*cannot be rebuilt for it",
            "TensorRT-RTX has nothing for this GPU, of compute capability {here}",
            "use another engine: srgan-edge upscale --engine onnxruntime, or build with --tensorrt",
        ),
        (
            r"cannot run on this GPU, which has compute capability (?P<here>\d+\.\d+)\. "
            r"Supported compute capabilities: (?P<there>[\d., ]*\d)",
            "it was built for compute capability {there}, and this GPU has {here}",
            "",
        ),
        (
            r"Target GPU SM (?P<here>\d+) is not supported",
            "this TensorRT is too old for the GPU (SM {here})",
            "install a newer one: pip install --upgrade tensorrt",
        ),
        (
            r"Unsupported SM: 0x(?P<here>[0-9a-f]+)",
            "this TensorRT is too old for the GPU (SM 0x{here})",
            "install a newer one: pip install --upgrade tensorrt",
        ),
        (
            r"cudaError 35|CUDA driver version is insufficient",
            "there is no NVIDIA driver here, or one too old for this CUDA",
            "install a newer driver; for details type: srgan-edge doctor",
        ),
        (
            r"Using an engine plan file across different models of devices",
            "it was built on another model of GPU",
            "",
        ),
    ]
]


def explained(messages: Sequence[str], rebuild_command: str) -> str:
    """Return our message for the first known failure, with advice; else the messages themselves."""
    for failure in FAILURES:
        for message in messages:
            if found := failure.pattern.search(message):
                remedy = failure.remedy or f"type: {rebuild_command}"
                return f"{failure.sentence.format(**found.groupdict())}; {remedy}"
    return "; ".join(messages) or "TensorRT gave no reason"


@cache
def log_of(module: str) -> Any:  # noqa: ANN401 - an object of a class of that module
    """Return this process's only logger for `tensorrt` or `tensorrt_rtx`; it keeps everything.

    The runtime keeps using the first logger that it received and ignores later ones.
    """
    trt: Any = import_module(module)

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.clear()

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            self.messages.append(message)
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def clear(self) -> None:
            """Forget all messages so far."""
            self.messages: list[str] = []
            self.errors: list[str] = []

    return Log()
