"""The kernels as functions of this machine, for the driver without a GPU to launch by their names.

Every thread of a launch runs, one after the other; the sources are those that a GPU gets.
"""

import ctypes
import re
import shutil
import subprocess

from srgan_edge.kernels import source

CXX = shutil.which("g++") or shutil.which("c++")
_OPTIONS = ["-std=c++17", "-O2", "-fno-strict-aliasing", "-shared", "-fPIC", f"-I{source.FOLDER}"]
_LAUNCH = """
extern "C" void launch_{name}(void** arguments, const unsigned* blocks, const unsigned* threads) {{
    std::lock_guard<std::mutex> held(one_at_a_time);
    for (current_thread = 0; current_thread < int(blocks[0] * threads[0]); ++current_thread)
        {name}({values});
}}
"""


def register_all(driver, folder):
    """Make all of them known to the driver, a `ctypes.CDLL`; what is returned has to be kept."""
    launches = []
    for name, file in source.KERNELS.items():
        kinds = _parameters(name)
        values = ", ".join(f"*static_cast<{kind}*>(arguments[{i}])" for i, kind in enumerate(kinds))
        launches.append((file, _LAUNCH.format(name=name, values=values)))
    units = []
    for file in sorted(set(source.KERNELS.values())):
        unit = folder / f"{file}.cpp"
        own = "".join(text for of, text in launches if of == file)
        lock = "#include <mutex>\ninline std::mutex one_at_a_time;\n"
        unit.write_text(f'#include "{file}.cu"\n{lock}{own}')
        units.append(unit)
    path = folder / "host_kernels.so"
    subprocess.run([CXX, *_OPTIONS, "-o", path, *units], check=True)
    library = ctypes.CDLL(str(path))
    for name in source.KERNELS:
        sizes = [8 if kind.endswith("*") else 4 for kind in _parameters(name)]
        array = (ctypes.c_size_t * len(sizes))(*sizes)
        launch = getattr(library, f"launch_{name}")
        driver.fake_register(name.encode(), launch, len(sizes), array)
    return library


def _parameters(name):
    """The types of a kernel's parameters, as its source has them."""
    text = source.source_of(name).read_text()
    declared = re.search(rf"KERNEL {name}\(([^)]*)\)", text)[1]
    return [re.sub(r"\s*\w+$", "", parameter.strip()) for parameter in declared.split(",")]
