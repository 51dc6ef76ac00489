"""The recorded API of TensorRT against its real bindings, which do not need a GPU to be read.

They come from PyPI without TensorRT's libraries, for which an empty one stands in: classes, enums
and names are all there, and nothing behind them.
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorrt_api import NAMES, REMOVED, names_of

HERE = Path(__file__).resolve().parents[1]
PACKAGE = "tensorrt-cu13-bindings"
LISTED = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
tensorrt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tensorrt)
wanted = json.loads(sys.argv[2])
print(json.dumps({kind: dir(getattr(tensorrt, kind, None)) for kind in wanted}
    | {"tensorrt": dir(tensorrt)}))
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The names of each class, and of the module itself, and the version."""
    spec = find_spec("tensorrt_bindings")
    if spec is None or shutil.which("g++") is None:
        pytest.skip(f"needs {PACKAGE} and g++")
    (folder,) = spec.submodule_search_locations
    number, libraries = version(PACKAGE), tmp_path_factory.mktemp("tensorrt")
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        soname = f"lib{name}.so.{number.partition('.')[0]}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", libraries / soname]
        subprocess.run(["g++", *options, HERE / "tensorrt_bindings.cpp"], check=True)
    run = subprocess.run(
        [sys.executable, "-c", LISTED, Path(folder) / "tensorrt.so", json.dumps(list(NAMES))],
        env={"LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return number, {kind: set(names) for kind, names in json.loads(run.stdout).items()}


@pytest.mark.parametrize("kind", NAMES)
def test_recorded_names_exist(real, kind):
    number, names = real
    assert names_of(kind, number) <= names[kind]


def test_names_recorded_as_removed_do_not_exist(real):
    number, names = real
    (removed,) = REMOVED.values()
    assert number >= "11"
    for kind, gone in removed.items():
        assert not names[kind] & set(gone.split()), kind
