"""From a model to a TensorRT-RTX engine with its passport, on any machine: no GPU is needed."""

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import onnx

from srgan_edge.checkpoint import load_checkpoint
from srgan_edge.engine_cache import EngineCache, EngineKey
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import ModelRefused
from srgan_edge.export.cost import cost_of
from srgan_edge.export.onnx import deployment_graph
from srgan_edge.export.precision import HalfPrecision, in_half
from srgan_edge.export.reference import TypedReference
from srgan_edge.export.rewrites import rewritten
from srgan_edge.export.tensorrt import (
    RTX,
    build_plan,
    builder_version,
    refuse_unknown_capabilities,
)
from srgan_edge.export.verify import natural_batches
from srgan_edge.models import find_model
from srgan_edge.parity import GATES, compare
from srgan_edge.passport import Passport, Profile, write_engine


def export_rtx(
    source: str,
    precision: HalfPrecision,
    profile: Profile,
    compute_capabilities: Sequence[str],
    cache: EngineCache,
    say: Callable[[str], None],
) -> Path:
    """The engine of a model with its passport, built unless the cache has it.

    What is compared with PyTorch is the typed graph, computed to the letter: an engine runs on a
    GPU alone, which this machine need not have.

    Args:
        source: a bundled model by name, or a `.safetensors` file.
        compute_capabilities: of the GPUs it shall run on, as `8.9`.
        say: takes one line for the user, as each step is done.

    Raises:
        ExtraMissing: tensorrt-rtx is not installed.
        UsageError: no such compute capability.
        ModelRefused: the graph misses the gate of its precision, or the builder did not keep to it.
        OutputFailed: the cache cannot be written.
    """
    refuse_unknown_capabilities(compute_capabilities)
    generator, spec = load_checkpoint(find_model(source).file(".safetensors"))
    graph = deployment_graph(generator, spec)
    fast = rewritten(graph)
    say(f"graph     {cost_of(graph)}, rewritten {cost_of(fast)}")
    typed = in_half(fast, precision)
    key = EngineKey(
        module=RTX,
        version=builder_version(),
        graph_sha256=_sha256_of(typed),
        profile=profile,
        compute_capabilities=tuple(compute_capabilities),
        platform=f"{platform.system()} {platform.machine()}",
    )
    path = cache.path_of(key, f"{spec.name}-{precision}-{profile.best_text}")
    with cache.locked(path, lambda: say("engine    is being built by another process; waiting")):
        if (found := cache.find(path, key)) is not None:
            say(f"engine    {len(found.layers)} kernels, built before and still whole")
            return path
        with TorchEngine.from_generator(generator, spec) as reference:
            parity = compare(reference.upscale, TypedReference(typed).upscale, natural_batches())
        say(f"parity    {precision} graph against torch fp32: {parity}")
        if refusals := GATES[precision].refusals(parity):
            other = "bf16" if precision == "fp16" else "fp16"
            raise ModelRefused(
                f"{spec.name} in {precision} is too far from fp32: {'; '.join(refusals)}; "
                f"type --{other} instead"
            )
        plan = build_plan(typed, precision, profile, compute_capabilities)
        say(
            f"engine    {len(plan.layers)} kernels, every convolution in {precision}; "
            f"built for {profile} in {plan.seconds:.1f} s"
        )
        passport = Passport(
            spec=spec,
            source=source,
            **vars(key),
            precision=precision,
            engine_sha256=hashlib.sha256(plan.content).hexdigest(),
            build_seconds=round(plan.seconds, 3),
            parity={f"{precision} graph": asdict(parity)},
            layers=plan.layers,
        )
        write_engine(path, plan.content, passport)
    return path


def _sha256_of(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
