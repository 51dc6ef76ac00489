"""Build an engine of TensorRT or TensorRT-RTX, with its passport, from a model."""

import hashlib
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import onnx

from srgan_edge.engines.cache import CACHE_VARIABLE, EngineCache
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import ModelRefused, ResourcesExhausted, quoted
from srgan_edge.evaluation.parity import compare, gate_of
from srgan_edge.export.graph import cost_of, with_totals
from srgan_edge.export.half_onnx import HalfPrecision, TypedReference, in_half
from srgan_edge.export.onnx import deployment_graph
from srgan_edge.export.rewrites import rewritten
from srgan_edge.export.tensorrt import (
    OnStep,
    Runtime,
    Search,
    build_plan,
    refuse_unknown_capabilities,
    version_of,
)
from srgan_edge.export.verify import natural_batches
from srgan_edge.files import replace_when_whole
from srgan_edge.machine import Gpu
from srgan_edge.model.checkpoint import load_checkpoint
from srgan_edge.model.library import find_model
from srgan_edge.model.passport import EngineKey, Passport, Profile, write_engine
from srgan_edge.model.spec import ModelSpec


@dataclass(frozen=True)
class Target:
    """The runtime and the GPUs that an engine is built for."""

    runtime: Runtime
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: Gpu | None = None
    """The GPU it is built on, where the engine depends on that."""
    search: Search = Search()  # noqa: RUF009 - it is frozen

    @classmethod
    def rtx(cls, compute_capabilities: tuple[str, ...]) -> Self:
        """Target TensorRT-RTX on GPUs of these compute capabilities, such as `8.9`.

        This machine needs no GPU.

        Raises:
            ExtraMissing: tensorrt-rtx is not installed.
            UsageError: no such compute capability.
        """
        version = version_of("tensorrt_rtx")
        refuse_unknown_capabilities(compute_capabilities)
        return cls("tensorrt_rtx", version, compute_capabilities)

    @classmethod
    def tensorrt(cls, search: Search) -> Self:
        """Target TensorRT on the GPU of this machine.

        Raises:
            ExtraMissing: tensorrt is not installed.
            ResourcesExhausted: there is no GPU.
        """
        version = version_of("tensorrt")
        gpu = Gpu.find()
        if gpu is None:
            raise ResourcesExhausted(
                "TensorRT builds engines on the GPU that they run on, and this machine has none; "
                "type --rtx, which needs no GPU to build, or --onnx"
            )
        return cls("tensorrt", version, (gpu.compute_capability,), gpu, search)

    def key(self, graph: onnx.ModelProto, profile: Profile) -> EngineKey:
        """Return the key of an engine of that graph: everything that determines its bytes."""
        return EngineKey(
            module=self.runtime,
            version=self.version,
            graph_sha256=hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest(),
            profile=profile,
            compute_capabilities=self.compute_capabilities,
            gpu=str(self.gpu or ""),
            driver=self.gpu.driver if self.gpu else "",
            workspace_mib=self.search.workspace_mib,
            optimization_level=self.search.optimization_level,
            platform=f"{platform.system()} {platform.machine()}",
        )


def export_engine(
    source: str,
    precision: HalfPrecision,
    profile: Profile,
    target: Target,
    cache: EngineCache,
    say: Callable[[str], None],
    on_step: OnStep = lambda phase, done, steps: None,
) -> Path:
    """Return the path of a model's engine with its passport, built unless the cache has it.

    The typed graph, computed exactly as written, is compared with PyTorch: the engine itself needs
    a GPU, which this machine may lack.

    Args:
        source: a bundled model by name, or a `.safetensors` file.
        say: called with one line for the user after each step.

    Raises:
        ModelRefused: the graph misses the gate of its precision, or the builder ignored its types.
        OutputFailed: the cache cannot be written.
        Interrupted: a signal of `STOPPING` arrived during the build.
    """
    generator, spec = load_checkpoint(find_model(source).file(".safetensors"))
    if spec.quantized_from and target.runtime == "tensorrt_rtx":
        raise ModelRefused(
            f"{spec.name} is in INT8, and TensorRT-RTX has no convolutions in INT8; "
            f"type --tensorrt, or: srgan-edge export {quoted(spec.quantized_from)} --rtx"
        )
    graph = deployment_graph(generator, spec)
    fast = rewritten(graph)
    say(f"graph     {cost_of(graph)}, rewritten {cost_of(fast)}")
    typed = in_half(fast, precision)
    watched = with_totals(typed)
    key = target.key(watched, profile)
    path = cache.path_of(key, f"{spec.name}-{precision}-{profile.best_text}")
    with cache.locked(path, lambda: say("engine    is being built by another process; waiting")):
        if (found := cache.find(path, key)) is not None:
            say(f"engine    {len(found.layers)} kernels, built before and still whole")
            return path
        with TorchEngine.from_generator(generator, spec) as reference:
            parity = compare(reference.upscale, TypedReference(typed).upscale, natural_batches())
        say(f"parity    {precision} graph against torch: {parity}")
        _refuse_far(spec, precision, gate_of(spec, precision).refusals(parity))
        timings_path = cache.timings_path(target.version, key.gpu)
        plan = build_plan(
            watched,
            precision,
            profile,
            target.runtime,
            target.compute_capabilities,
            target.search,
            timings_path.read_bytes() if timings_path.is_file() else b"",
            on_step,
        )
        kernels = f"{len(plan.layers)} kernels, every convolution in {_words(spec, precision)}"
        say(f"engine    {kernels}; built for {profile} in {plan.seconds:.1f} s")
        passport = Passport(
            spec=spec,
            source=source,
            key=key,
            precision=precision,
            engine_sha256=hashlib.sha256(plan.content).hexdigest(),
            build_seconds=round(plan.seconds, 3),
            parity={f"{precision} graph": asdict(parity)},
            layers=plan.layers,
        )
        write_engine(path, plan.content, passport, CACHE_VARIABLE)
        if plan.timings:
            with replace_when_whole(timings_path, CACHE_VARIABLE) as temporary:
                temporary.write_bytes(plan.timings)
    return path


def _words(spec: ModelSpec, precision: HalfPrecision) -> str:
    return f"int8, the first and last in {precision}" if spec.quantized_from else precision


def _refuse_far(spec: ModelSpec, precision: HalfPrecision, refusals: list[str]) -> None:
    if refusals:
        other = "bf16" if precision == "fp16" else "fp16"
        raise ModelRefused(
            f"{spec.name} in {precision} is too far from fp32: {'; '.join(refusals)}; "
            f"type --{other} instead"
        )
