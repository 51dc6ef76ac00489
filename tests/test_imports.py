"""Who may import whom, what may be called at all, and what `--help` may load.

The rules are read off the source of every module, so that a forbidden import inside a function that
no test happens to run is still found.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIME, TRAIN, EXPORT, KERNELS = PACKAGES = (
    "srgan_edge",
    "srgan_edge.train",
    "srgan_edge.export",
    "srgan_edge.kernels",
)
COMMANDS = "srgan_edge.cli"

ROOMS = {
    # What is read and written.
    "video": (),
    "image": (),
    "model": (),
    # Who works on it.
    "isolation": ("video", "image"),
    "jobs": ("video", "image"),
    "engines": ("model", "kernels"),
    "evaluation": ("image", "model", "engines"),
    "compare": ("video", "image", "isolation", "engines", "evaluation"),
    # A video file in resumable segments; a stream in one pass.
    "transcode": ("video", "isolation", "jobs", "model", "engines", "kernels"),
    "live": ("video", "jobs"),
    # Several engines for one video.
    "workers": ("video", "isolation", "jobs", "model", "engines", "transcode"),
    # Measures what is above.
    "bench": ("video", "image", "model", "isolation", "jobs", "engines", "transcode"),
    # Jobs over HTTP, each an `upscale` command.
    "serve": ("video", "image", "model", "isolation", "jobs", "engines", "compare"),
    "client": ("serve",),
    # The other folders of the checkout.
    "train": ("video", "image", "model", "engines", "evaluation"),
    "export": ("image", "model", "isolation", "engines", "evaluation"),
    "kernels": (),
}
"""The packages that each may import, besides the heart: the modules of `srgan_edge` itself."""

HEART = {
    "ahead": ("video", "isolation"),
    "cutter": ("model", "engines"),
    "upscaler": ("model", "engines"),
    "pipeline": ("video",),
    "reuse": ("video",),
    "suited": ("video", "image", "model", "isolation", "jobs", "engines", "transcode"),
    "tuning": ("model", "engines", "isolation", "jobs", "transcode"),
    "run": (
        *("video", "image", "model", "isolation", "jobs", "engines", "transcode", "live"),
        "workers",
    ),
    "api": ("video", "image", "model", "isolation", "jobs", "engines"),
    "__main__": ("cli",),
}
"""The packages that modules of the heart may import; those not named import the heart alone."""

UPPER_HEART = {
    "cutter": (),
    "upscaler": ("evaluation", "transcode", "live", "workers", "bench", "cli"),
    "pipeline": ("transcode", "live", "bench"),
    "suited": ("serve", "cli"),
    "tuning": ("bench", "cli"),
    "run": ("workers", "bench", "serve", "cli"),
    "api": ("serve", "cli"),
}
"""Modules of the heart that only these packages, and the heart, may import."""

OWNERS = {
    "torch": (
        "srgan_edge.model.network",
        "srgan_edge.model.half",
        "srgan_edge.model.quantization",
        "srgan_edge.model.checkpoint",
        "srgan_edge.engines.fused",
        "srgan_edge.engines.torch",
        "srgan_edge.engines.torch_slots",
    ),
    "openvino": ("srgan_edge.engines.openvino", "srgan_edge.engines.openvino_bf16"),
    "onnxruntime": ("srgan_edge.engines.onnxruntime",),
    "av": ("srgan_edge.video", "srgan_edge.transcode", "srgan_edge.live"),
    "torchvision": (),
    "torchmetrics": (),
    "piq": (),
    "safetensors": ("srgan_edge.model.checkpoint",),
    "onnx": (),
    "fastapi": ("srgan_edge.serve",),
    "starlette": ("srgan_edge.serve",),
    "uvicorn": ("srgan_edge.serve.server",),
    "h11": ("srgan_edge.serve.server",),
    "python_multipart": ("srgan_edge.serve.uploads",),
    "prometheus_client": ("srgan_edge.serve.metrics",),
    "pycuda": ("srgan_edge.kernels.pycuda",),
    "cuda": ("srgan_edge.kernels.cuda_bindings",),
    "cv2": ("srgan_edge.motion",),
    "ray": (),
}
"""Packages and modules of the runtime that may import a library at their top."""

PICKLES = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
TORCH_LOADERS = (
    "srgan_edge.train.run_folder",
    "srgan_edge.train.vgg",
    "srgan_edge.train.perceptual",
    "srgan_edge.train.teachers",
    "srgan_edge.export.convert",
)
"""Modules that read a run's own state, a VGG, heads of LPIPS, teachers, or, in a child process,
weights of other programs."""


@dataclass(frozen=True)
class Import:
    name: str
    """Dotted; `from a.b import c` is `a.b.c`."""
    late: bool
    """Inside a function body, or for type checkers only."""


def find_modules() -> dict[str, str]:
    """Source by module name, over the four folders."""
    modules = {}
    for package in PACKAGES:
        folder = ROOT / package.removeprefix("srgan_edge.")
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            modules[name] = path.read_text()
    return modules


def find_imports(node: ast.AST, late: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (Import(alias.name, late) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = "." * level + (module or "")
                yield from (Import(f"{start}.{alias.name}", late) for alias in names)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from find_imports(child, late=True)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from find_imports(child, late=True)
            case _:
                yield from find_imports(child, late)


def broken_rules(module: str, source: str) -> list[str]:
    tree = ast.parse(source)
    broken = [f"imports {found.name}" for found in find_imports(tree) if not allowed(module, found)]
    return broken + [f"calls {call}" for call in find_forbidden_calls(module, tree)]


def allowed(module: str, found: Import) -> bool:
    library = found.name.partition(".")[0]
    if library == "srgan_edge":
        return direction_allowed(module, found)
    if library in PICKLES or library == "":  # "": a relative import
        return False
    if library in OWNERS and package_of(module) in (RUNTIME, KERNELS):
        return found.late or any(is_in(module, owner) for owner in OWNERS[library])
    return True


def direction_allowed(module: str, found: Import) -> bool:
    source, target = room_of(module), room_of(found.name)
    if source == target:
        return True
    if source == "cli":  # the other folders need libraries that an edge box lacks
        return found.late or package_of(found.name) == RUNTIME
    if source == "kernels":
        return is_in(found.name, "srgan_edge.errors")
    if target is not None:
        name = module.removeprefix("srgan_edge.")
        return target in (HEART.get(name, ()) if source is None else ROOMS[source])
    name = found.name.split(".")[1] if "." in found.name else ""
    return source in (None, *UPPER_HEART.get(name, ROOMS), "train", "export")


def room_of(name: str) -> str | None:
    """The package in which a module, or a name imported from one, lies; None: the heart."""
    first = name.split(".")[1] if "." in name else ""
    return first if first in (*ROOMS, "cli") else None


def find_forbidden_calls(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {f"{word.arg}={ast.unparse(word.value)}" for word in node.keywords}
        safe_load = module in TORCH_LOADERS and "weights_only=True" in options
        if (
            name in ("eval", "exec", "os.system", "os.popen")
            or (name == "print" and not is_in(module, COMMANDS))
            or (name == "torch.load" and not safe_load)
            or options & {"shell=True", "allow_pickle=True"}
        ):
            yield ast.unparse(node)


def package_of(name: str) -> str:
    return next((side for side in (TRAIN, EXPORT, KERNELS) if is_in(name, side)), RUNTIME)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


MODULES = find_modules()


@pytest.mark.parametrize("module", MODULES)
def test_keeps_the_rules(module: str) -> None:
    assert broken_rules(module, MODULES[module]) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("srgan_edge.pipeline", "def f():\n    from srgan_edge.train import loop"),
        ("srgan_edge.pipeline", "import srgan_edge.export.onnx"),
        ("srgan_edge.pipeline", "from srgan_edge import kernels"),
        ("srgan_edge.pipeline", "import torch"),
        ("srgan_edge.pipeline", "if True:\n    from torch import nn"),
        ("srgan_edge.pipeline", "from . import video"),
        ("srgan_edge.live.writer", "def f():\n    from srgan_edge.api import Upscaler"),
        ("srgan_edge.engines.torch", "import onnxruntime"),
        ("srgan_edge.cli.train", "from srgan_edge.train.loop import train"),
        ("srgan_edge.cli", "import torch"),
        ("srgan_edge.train.loop", "from srgan_edge.export import onnx"),
        ("srgan_edge.export.onnx", "def f():\n    import srgan_edge.train"),
        ("srgan_edge.export.onnx", "import srgan_edge.kernels"),
        ("srgan_edge.kernels.launch", "from srgan_edge.spec import ModelSpec"),
        ("srgan_edge.model.checkpoint", "import pickle"),
        ("srgan_edge.model.checkpoint", "torch.load(path, weights_only=True)"),
        ("srgan_edge.train.run_folder", "torch.load(path)"),
        ("srgan_edge.spec", "eval('1')"),
        ("srgan_edge.spec", "print('here')"),
        ("srgan_edge.video.reader", "os.system(f'ffmpeg -i {path}')"),
        ("srgan_edge.live.writer", "subprocess.run(line, shell=True)"),
    ],
)
def test_finds_a_broken_rule(module: str, source: str) -> None:
    assert len(broken_rules(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("srgan_edge.pipeline", "from srgan_edge.video.frame import Frame\nimport numpy"),
        ("srgan_edge.pipeline", "def f():\n    import torch"),
        ("srgan_edge.engines.torch", "import torch\nnetwork.eval()"),
        ("srgan_edge.engines.tensorrt", "from srgan_edge.kernels import launch"),
        (
            "srgan_edge.cli",
            "def train():\n    from srgan_edge.train.loop import train\n    print()",
        ),
        ("srgan_edge.train.run_folder", "import torch\ntorch.load(path, weights_only=True)"),
        ("srgan_edge.kernels.launch", "from srgan_edge.errors import ModelRefused"),
    ],
)
def test_leaves_the_rest_alone(module: str, source: str) -> None:
    assert broken_rules(module, source) == []


def test_the_runtime_needs_no_torch() -> None:
    """Through no chain of imports: an edge box has none."""
    light = [
        module
        for module in MODULES
        if package_of(module) == RUNTIME
        and module not in (*OWNERS["torch"], "srgan_edge.__main__")  # the latter runs the program
    ]
    modules_after(
        "import importlib, sys; sys.modules['torch'] = None",  # from now on importing it fails
        f"for module in {light}: importlib.import_module(module)",
    )


@pytest.mark.parametrize(
    "program",
    [
        "import srgan_edge",
        "import srgan_edge.cli",
        "import srgan_edge.client",
        "import srgan_edge.cli, sys\n"
        "sys.argv = ['srgan-edge', '--help']\n"
        "try: srgan_edge.cli.main()\n"
        "except SystemExit as stop: assert not stop.code",
    ],
    ids=["import", "import cli", "import client", "--help"],
)
def test_starts_light(program: str) -> None:
    heavy = {*OWNERS, "numpy", "PIL", "onnxscript", "tensorboard", "tensorrt", "pycuda"}
    assert modules_after(program) & heavy == set()


def test_a_training_needs_no_video() -> None:
    """A rented machine may have PyTorch and little else; only `sources` encodes videos."""
    pytest.importorskip("torch")
    missing = {"av", "openvino", "onnx", "onnxruntime", "ncnn", "spandrel", "piq", "torchmetrics"}
    assert modules_after("import srgan_edge.train.loop") & missing == set()


def modules_after(*lines: str) -> set[str]:
    """Names of the top-level packages that a fresh interpreter has loaded after the lines."""
    report = "import sys; print('loaded:', *(name for name, it in sys.modules.items() if it))"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, report])],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.rpartition("loaded:")[2].split()
    return {name.partition(".")[0] for name in names}
