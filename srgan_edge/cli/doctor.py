"""Findings about this machine: packages, engines (each runs a self-test), CPU, GPU, models."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np

from srgan_edge import __version__, bicubic
from srgan_edge.engines import KINDS, Choice, open_engine
from srgan_edge.engines.base import Engine
from srgan_edge.evaluation import metrics
from srgan_edge.isolation import sandbox, system_calls
from srgan_edge.machine import cpu_flags, installed_version
from srgan_edge.model.library import DEFAULT_MODEL, bundled_models
from srgan_edge.pixels import Pixels

Status = Literal["ok", "absent", "broken"]

RUNTIME_PACKAGES = ("numpy", "pillow", "av", "msgspec", "typer", "rich", "openvino")
OPTIONAL_PACKAGES = {
    "torch": "train",
    "torchvision": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "matplotlib": "train",
    "piq": "train",
    "torchmetrics": "train",
    "onnxscript": "export",
    "onnxruntime": "onnx",
    "onnxruntime-gpu": "cuda",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "rtx",
    "fastapi": "serve",
    "uvicorn": "serve",
    "python-multipart": "serve",
    "prometheus-client": "serve",
}
"""The extra that installs each distribution."""

CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")

MIN_CONSISTENCY_DB = 30.0
"""Minimum PSNR of a result, reduced again, against its input. Swapped channels, a wrong value range
or a wrong graph all fall far below; bicubic interpolation reaches about 45 dB on the test image."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    group: str
    name: str
    status: Status
    detail: str
    advice: str = ""
    """Command that fixes it; empty if nothing needs fixing."""


def examine() -> list[Finding]:
    """Check everything. Faults are reported as findings, not raised."""
    return [*_system(), *_packages(), *_models(), *_engines(), *_gpu()]


def self_test(engine: Engine) -> float:
    """Upscale a small image, reduce the result again, and return its PSNR in dB."""
    lr = _test_image()
    sr = engine.upscale(lr[None])[0]
    return metrics.psnr_rgb(bicubic.resize(sr, *lr.shape[:2]), lr, border_px=2)


def _test_image() -> Pixels:
    """Return a smooth 40x32 image with three different channels."""
    y, x = np.mgrid[0:32, 0:40] / 32
    planes = [np.sin(3 * x + y), np.sin(4 * y - x + 1), np.cos(2 * x * y + 2)]
    return (127.5 + 100 * np.stack(planes, axis=2)).astype(np.uint8)


def _system() -> list[Finding]:
    python = f"{platform.python_version()} ({sys.executable})"
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    flags = cpu_flags()
    features = " ".join(name for name in CPU_FEATURES if name in flags) or "no known extensions"
    return [
        Finding("system", "srgan-edge", "ok", __version__),
        Finding("system", "Python", "ok", python),
        Finding("system", "platform", "ok", system),
        Finding("system", "CPU", "ok", f"{os.cpu_count()} cores, {features}"),
        _sandbox(),
    ]


def _sandbox() -> Finding:
    """Say which of the limits of `docs/hostile-input.md` this kernel enforces."""
    version, filters = sandbox.landlock_version(), system_calls.is_available()
    files = f"files by Landlock {version}" if version > 0 else "files not limited (no Landlock)"
    calls = "system calls by seccomp" if filters else "system calls not limited (no seccomp)"
    status: Status = "ok" if version > 0 and filters else "absent"
    return Finding("system", "sandbox", status, f"{files}, {calls}")


def _packages() -> list[Finding]:
    findings = []
    for name in RUNTIME_PACKAGES:
        version = installed_version(name)
        status: Status = "ok" if version else "broken"
        advice = "" if version else "pip install --force-reinstall srgan-edge"
        findings.append(Finding("packages", name, status, version or "missing", advice))
    for name, extra in OPTIONAL_PACKAGES.items():
        version = installed_version(name)
        detail = version or "not installed"
        advice = "" if version else f"pip install 'srgan-edge[{extra}]'"
        findings.append(Finding("extras", name, "ok" if version else "absent", detail, advice))
    return findings


def _models() -> list[Finding]:
    findings = []
    for name, model in bundled_models().items():
        spec = model.spec
        size = f"{spec.architecture} {spec.blocks}x{spec.channels}, x{spec.scale}"
        scores = spec.training.scores if spec.training else {}
        quality = ", ".join(f"{name} {score:.2f} dB" for name, score in scores.items())
        findings.append(Finding("models", name, "ok", f"{size}  {quality}".rstrip()))
    return findings


def _engines() -> list[Finding]:
    model = bundled_models()[DEFAULT_MODEL]
    findings = []
    for kind in KINDS.values():
        if not kind.installed:
            advice = f"pip install '{kind.requirement}'"
            findings.append(Finding("engines", kind.name, "absent", "not installed", advice))
            continue
        if not model.has(kind.suffix):
            detail = "installed; no engine is bundled, each is built for a GPU"
            advice = f"srgan-edge export {DEFAULT_MODEL} --rtx"
            findings.append(Finding("engines", kind.name, "absent", detail, advice))
            continue
        choice = Choice(kind, model.file(kind.suffix), "cpu", "self-test")
        findings.append(_tried(choice))
    return findings


def _tried(choice: Choice) -> Finding:
    name = choice.kind.name
    try:
        with open_engine(choice) as engine:
            info, consistency_db = engine.info, self_test(engine)
    except Exception as error:  # whatever a runtime raises is the finding
        return Finding("engines", name, "broken", f"{type(error).__name__}: {error}")
    detail = f"{info.device}, {info.arithmetic}, self-test {consistency_db:.1f} dB"
    status: Status = "ok" if consistency_db >= MIN_CONSISTENCY_DB else "broken"
    return Finding("engines", name, status, detail)


def _gpu() -> list[Finding]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return [Finding("gpu", "NVIDIA", "absent", "no driver (nvidia-smi not found)")]
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if answer.returncode != 0:
        return [Finding("gpu", "NVIDIA", "broken", (answer.stderr or answer.stdout).strip())]
    return [Finding("gpu", "NVIDIA", "ok", line) for line in answer.stdout.splitlines()]
