"""TensorRT 10 and 11 as far as their Python API is known, without their libraries.

`recorded(version)` is a module with exactly the names of that version: reading or setting any other
raises an AttributeError, as on an edge device. The names come from the sources of the bindings of
10.0, 10.3, 10.7, 10.13, 10.16 and 11.1 and from the symbols of 11.4. Behind them is just enough to
build: onnx reads the graph, and the plan is the inspector's output, with one kernel for each
convolution in the type of the graph.
"""

import ctypes
import json
import math
import types
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec

import numpy as np
import onnx

VERSIONS = ("10.3.0", "10.16.1", "11.4.1")

NAMES = {
    "tensorrt": """
        Builder BuilderFlag ExecutionContextAllocationStrategy HardwareCompatibilityLevel ILogger
        IProgressMonitor LayerInformationFormat MemoryPoolType NetworkDefinitionCreationFlag
        OnnxParser ProfilingVerbosity Runtime TensorFormat
    """,
    "Builder": """
        build_serialized_network create_builder_config create_network create_optimization_profile
    """,
    "INetworkDefinition": "get_input",
    "ITensor": "allowed_formats name",
    "OnnxParser": "get_error num_errors parse parse_from_file supports_model_v2",
    "ParserError": "desc node_name node_operator",
    "IBuilderConfig": """
        add_optimization_profile avg_timing_iterations builder_optimization_level clear_flag
        create_timing_cache get_timing_cache hardware_compatibility_level max_aux_streams
        profiling_verbosity progress_monitor set_flag set_memory_pool_limit set_timing_cache
    """,
    "IOptimizationProfile": "set_shape",
    "ITimingCache": "serialize",
    "Runtime": "deserialize_cuda_engine",
    "ICudaEngine": """
        create_engine_inspector create_execution_context device_memory_size_v2 get_tensor_dtype
        get_tensor_format_desc get_tensor_mode get_tensor_name get_tensor_profile_shape
        get_tensor_shape num_io_tensors
    """,
    "EngineInspector": "execution_context get_engine_information",
    "IExecutionContext": """
        execute_async_v3 get_tensor_shape infer_shapes set_device_memory set_input_shape
        set_optimization_profile_async set_tensor_address
    """,
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "BuilderFlag": "TF32 VERSION_COMPATIBLE",
    "MemoryPoolType": "WORKSPACE TACTIC_SHARED_MEMORY TACTIC_DRAM",
    "ProfilingVerbosity": "DETAILED",
    "LayerInformationFormat": "JSON",
}
"""Names that all versions have."""

ADDED = {
    (10, 7): {"IBuilderConfig": "max_num_tactics"},
    (10, 8): {"IBuilderConfig": "l2_limit_for_tiling tiling_optimization_level"},
    (10, 11): {"ICudaEngine": "create_runtime_config"},
    (10, 16): {"ICudaEngine": "get_engine_stat"},
    (11, 0): {"IBuilderConfig": "all_build_routes build_route"},
}
REMOVED = {
    (11, 0): {
        "tensorrt": "IAlgorithmSelector IInt8Calibrator",
        "Builder": "platform_has_fast_fp16 platform_has_fast_int8 platform_has_tf32",
        "IBuilderConfig": """
            algorithm_selector get_calibration_profile int8_calibrator quantization_flags
            set_calibration_profile
        """,
        "OnnxParser": "parse_with_weight_descriptors supports_model",
        "ICudaEngine": """
            create_execution_context_without_device_memory device_memory_size
            has_implicit_batch_dimension
        """,
        "ITensor": "dynamic_range set_dynamic_range",
        "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH",
        "BuilderFlag": "BF16 FP16 FP8 INT8 INT4 OBEY_PRECISION_CONSTRAINTS",
    }
}
"""Names of older versions that newer ones lack."""

DATATYPES = {
    onnx.TensorProto.FLOAT: "Float",
    onnx.TensorProto.FLOAT16: "Half",
    onnx.TensorProto.BFLOAT16: "BFloat16",
    onnx.TensorProto.INT8: "Int8",
    onnx.TensorProto.UINT8: "UInt8",
}


RTX = {
    "ICudaEngine": "create_runtime_config",
    "IExecutionContext": "is_stream_capturable",
    "IRuntimeConfig": "create_runtime_cache get_runtime_cache set_runtime_cache",
    "IRuntimeCache": "deserialize serialize",
}
"""Names that only TensorRT-RTX has; a test checks them in the real binding."""


def names_of(kind, version):
    """Return the attributes of a class, or of the module, in a version."""
    if version.startswith("1."):
        return set(NAMES.get(kind, "").split()) | set(RTX.get(kind, "").split())
    number = tuple(map(int, version.split(".")[:2]))
    names = set(NAMES.get(kind, "").split())
    for since, added in ADDED.items():
        if number >= since:
            names |= set(added.get(kind, "").split())
    for since, removed in REMOVED.items():
        if number < since:
            names |= set(removed.get(kind, "").split())
    return names


class Recorded:
    """An object of the API: of its public attributes, those of its version alone exist.

    What it does inside is in attributes with an underscore.
    """

    def __init__(self, api):
        self._api = api

    def __getattribute__(self, name):
        if not name.startswith("_"):
            self._must_exist(name)
        return super().__getattribute__(name)

    def __setattr__(self, name, value):
        if not name.startswith("_"):
            self._must_exist(name)
        super().__setattr__(name, value)

    def _must_exist(self, name):
        kind, version = type(self).__name__, self._api.version
        if name not in names_of(kind, version):
            raise AttributeError(f"TensorRT {version} has no {kind}.{name}")


class ILogger:
    """The base class of loggers; severities are numbers, as they are in C++."""

    Severity = types.SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)


class IProgressMonitor:
    """The base class of monitors; builders call its three methods."""


class NetworkDefinitionCreationFlag(Recorded):
    STRONGLY_TYPED = 1


class MemoryPoolType(Recorded):
    WORKSPACE = "workspace"


class ProfilingVerbosity(Recorded):
    DETAILED = "detailed"


class LayerInformationFormat(Recorded):
    JSON = "json"


class ITensor(Recorded):
    def __init__(self, api, name):
        super().__init__(api)
        self.name = name


class INetworkDefinition(Recorded):
    def __init__(self, api, flags):
        super().__init__(api)
        self._flags = flags
        self._model = None

    def get_input(self, index):
        return ITensor(self._api, self._model.graph.input[index].name)


class ParserError(Recorded):
    def __init__(self, api, text):
        super().__init__(api)
        self._text = text

    def desc(self):
        return self._text


class OnnxParser(Recorded):
    def __init__(self, api, network, logger):
        super().__init__(api)
        self._network = network
        self.num_errors = 0

    def parse(self, content):
        model = onnx.ModelProto.FromString(content)
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            self.num_errors, self._error = 1, str(error)
            return False
        self._network._model = model
        return True

    def get_error(self, index):
        return ParserError(self._api, self._error)


class IOptimizationProfile(Recorded):
    def __init__(self, api):
        super().__init__(api)
        self._shapes = {}

    def set_shape(self, name, smallest, best, largest):
        self._shapes[name] = [smallest, best, largest]


class ITimingCache(Recorded):
    def __init__(self, api, blob):
        super().__init__(api)
        self._blob = blob

    def serialize(self):
        return memoryview(self._blob or self._api.gpu)


class IBuilderConfig(Recorded):
    def __init__(self, api):
        super().__init__(api)
        self._profiles, self._pools, self._timings = [], {}, None
        self.builder_optimization_level = 3

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)

    def set_memory_pool_limit(self, pool, size):
        self._pools[pool] = size

    def create_timing_cache(self, blob):
        return ITimingCache(self._api, blob)

    def set_timing_cache(self, cache, ignore_mismatch):
        fits = cache._blob in (b"", self._api.gpu)
        self._timings = cache if fits else self._timings
        return fits

    def get_timing_cache(self):
        return self._timings


class Builder(Recorded):
    def __init__(self, api, logger):
        super().__init__(api)
        self._logger = logger
        if api.fails("builder", logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags):
        return INetworkDefinition(self._api, flags)

    def create_builder_config(self):
        return IBuilderConfig(self._api)

    def create_optimization_profile(self):
        return IOptimizationProfile(self._api)

    def build_serialized_network(self, network, config):
        assert network._flags == 1 << 1, "not STRONGLY_TYPED: 10.x would choose precisions itself"
        assert config.profiling_verbosity == "detailed"
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building engine", step):
                self._logger.log(ILogger.Severity.ERROR, "Error Code 7: BuildCanceled")
                return None
        monitor.phase_finish("Building engine")
        if self._api.fails("build", self._logger):
            return None
        record = {
            "Layers": list(layers_of(network._model)),
            "shapes": config._profiles[0]._shapes,
            "workspace_bytes": config._pools.get("workspace"),
            "level": config.builder_optimization_level,
            "knew_timings": config._timings._blob != b"",
        }
        return b"ftrt" + json.dumps(record).encode()


class EngineInspector(Recorded):
    def __init__(self, api, content):
        super().__init__(api)
        self._content = content

    def get_engine_information(self, form):
        assert form == "json"
        return self._content[4:].decode()


class ICudaEngine(Recorded):
    def __init__(self, api, content):
        super().__init__(api)
        self._content = content

    def create_engine_inspector(self):
        return EngineInspector(self._api, self._content)

    def create_execution_context(self, config=None):
        assert config is None or config._cache is not None, "a runtime cache was made and not set"
        return IExecutionContext(self._api)

    def create_runtime_config(self):
        return IRuntimeConfig(self._api)

    @property
    def num_io_tensors(self):
        return len(self._api.tensors)

    def get_tensor_name(self, index):
        return self._api.tensors[index]


class IRuntimeConfig(Recorded):
    def __init__(self, api):
        super().__init__(api)
        self._cache = None

    def create_runtime_cache(self):
        return IRuntimeCache(self._api)

    def set_runtime_cache(self, cache):
        self._cache = cache


class IRuntimeCache(Recorded):
    def __init__(self, api):
        super().__init__(api)
        self._blob = b""

    def deserialize(self, blob):
        self._api.heard.append(bytes(blob))
        return True

    def serialize(self):
        return b"compiled kernels"


class IExecutionContext(Recorded):
    """Puts `Api.run` into a stream of the driver without a GPU, as TensorRT puts its kernels."""

    def __init__(self, api):
        super().__init__(api)
        self._shape, self._addresses, self._kept = None, {}, []

    def is_stream_capturable(self, stream):
        return self._api.capturable

    def set_input_shape(self, name, shape):
        self._shape = tuple(shape)
        return name == "input"

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return name in self._api.tensors

    def execute_async_v3(self, stream):
        shape, addresses = self._shape, dict(self._addresses)

        @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        def work(_):
            frames, height, width, _ = shape
            batch = _view(addresses["input"], shape)
            _view(addresses["output"], (frames, 4 * height, 4 * width, 3))[:] = self._api.run(batch)
            _view(addresses["totals"], (4 * frames,)).view(np.float32)[:] = self._api.totals(batch)

        self._kept.append(work)  # a graph may come back to it
        return not self._api.driver.cuLaunchHostFunc(ctypes.c_void_p(stream), work, None)


def _view(address, shape):
    content = (ctypes.c_uint8 * math.prod(shape)).from_address(address)
    return np.frombuffer(content, np.uint8).reshape(shape)


class Runtime(Recorded):
    def __init__(self, api, logger):
        super().__init__(api)
        self._logger = logger

    def deserialize_cuda_engine(self, content):
        return None if self._api.fails("load", self._logger) else ICudaEngine(self._api, content)


class tensorrt(Recorded):
    """The fake module."""

    __spec__ = ModuleSpec("tensorrt", None)
    ILogger, IProgressMonitor = ILogger, IProgressMonitor

    def __init__(self, api):
        super().__init__(api)
        self.__version__ = api.version
        for kind in (Builder, OnnxParser, Runtime):
            setattr(self, kind.__name__, partial(kind, api))
        for kind in (
            NetworkDefinitionCreationFlag,
            MemoryPoolType,
            ProfilingVerbosity,
            LayerInformationFormat,
        ):
            setattr(self, kind.__name__, kind(api))


@dataclass(frozen=True)
class Api:
    """One version on one GPU, and what goes wrong with it."""

    version: str
    gpu: bytes = b"timings of a GPU"
    failures: tuple[tuple[str, str], ...] = ()
    """Pairs of a step, `builder`, `build` or `load`, and what the logger hears then."""
    driver: object = None
    """The driver without a GPU, if engines shall run."""
    run: object = None
    """Computation of an engine: uint8 [N, H, W, 3] -> [N, 4H, 4W, 3]."""
    totals: object = lambda batch: np.zeros(len(batch))
    """Computation of the second output: float32 [N]."""
    tensors: tuple[str, ...] = ("input", "output", "totals")
    capturable: bool = True
    heard: list[bytes] = field(default_factory=list)
    """Compiled kernels that were handed back."""

    def fails(self, step, logger):
        messages = [message for at, message in self.failures if at == step]
        for message in messages:
            logger.log(ILogger.Severity.ERROR, message)
        return bool(messages)


def recorded(version, *failures, **does):
    """The module `tensorrt` of that version, or `tensorrt_rtx` of one that begins with 1."""
    return tensorrt(Api(version, failures=failures, **does))


def layers_of(model):
    """Return text like the inspector's, with types in words for inputs and bare for weights."""
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    types_by_name = {
        v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)
    }
    types_by_name |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        source = makers.get(node.input[0])
        in_bytes = source is not None and source.op_type == "DequantizeLinear"
        read = DATATYPES[types_by_name[source.input[0] if in_bytes else node.input[0]]]
        wording = {"Half": "Channel major FP16 format where channel % 8 == 0"}.get(read, read)
        yield {
            "Name": f"{node.name}_myl0_1",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": node.input[0], "Format/Datatype": wording}],
            "Outputs": [{"Name": node.output[0], "Format/Datatype": read}],
            "Weights": {"Type": read, "Count": 1},
            "Bias": {"Type": "Float", "Count": 1},
            "Metadata": f"[ONNX Layer: {node.name}]",
        }
    yield {
        "Name": "Reformatting CopyNode for Input Tensor 0",
        "LayerType": "Reformat",
        "Inputs": [{"Name": "input", "Format/Datatype": "UInt8"}],
        "Outputs": [{"Name": "x", "Format/Datatype": "Half"}],
        "Metadata": "",
    }
