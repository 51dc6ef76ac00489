"""Checks of the launcher, on a GPU or on a fake driver.

Pytest does not collect this file: tests/kernels/test_cuda.py runs it for both bindings, each in its
own process, as `tensorrt_checks.py`.
"""

import ctypes
import dataclasses
import importlib
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from host_kernels import CXX, register_all

from srgan_edge.errors import EngineLost, OutOfMemory, ResourcesExhausted
from srgan_edge.kernels import source
from srgan_edge.kernels.cuda import BINDINGS
from srgan_edge.machine import Gpu, share_primary_context

FAKE = os.environ.get("SRGAN_EDGE_FAKE_DRIVER")
if FAKE:
    ctypes.CDLL(FAKE, ctypes.RTLD_GLOBAL)  # for a pycuda that was linked without its library
SCALE_ADD = """
extern "C" __global__ void scale_add(unsigned char* values, int count, float factor, int shift) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] = (unsigned char)(values[i] * factor + shift);
}
"""


@pytest.fixture
def fake():
    """The controls of the driver without a GPU."""
    if not FAKE:
        pytest.skip("only a driver without a GPU can be made to fail")
    library = ctypes.CDLL(FAKE)
    library.fake_used_bytes.restype = ctypes.c_size_t
    yield library
    library.fake_reset()


@pytest.fixture
def cuda():
    """The GPU through the binding under test, current in this thread."""
    opened = importlib.import_module(BINDINGS[os.environ["SRGAN_EDGE_BINDING"]]).open_device()
    with opened.current():
        yield opened


@pytest.fixture
def image(tmp_path):
    """A module with `scale_add`: compiled, or a function of this process."""
    if not FAKE:
        path = tmp_path / "scale_add.cu"
        path.write_text(SCALE_ADD)
        return source.compile_with_nvrtc(path, Gpu.find().compute_capability)
    return b"an image\0"


KERNEL = ctypes.CFUNCTYPE(
    None,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint * 3),
    ctypes.POINTER(ctypes.c_uint * 3),
)


@KERNEL
def scale_add(arguments, blocks, threads):
    """The same on this machine: every thread of every block, one after the other."""
    kinds = (ctypes.c_uint64, ctypes.c_int, ctypes.c_float, ctypes.c_int)
    address, count, factor, shift = (
        ctypes.cast(arguments[i], ctypes.POINTER(kind))[0] for i, kind in enumerate(kinds)
    )
    values = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))
    reached = min(count, blocks[0][0] * threads[0][0])
    values[:reached] = (values[:reached] * factor + shift).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def registered():
    if FAKE:
        sizes = (ctypes.c_size_t * 4)(8, 4, 4, 4)
        ctypes.CDLL(FAKE).fake_register(b"scale_add", scale_add, 4, sizes)


def filled(cuda, content):
    pinned = cuda.pinned_memory(len(content))
    pinned.array[:] = content
    return pinned


def test_bytes_go_there_and_come_back(cuda):
    content = np.random.default_rng(0).integers(0, 256, 1_000_003, np.uint8)
    source, target = filled(cuda, content), cuda.pinned_memory(content.size)
    target.array[:] = 0
    memory, stream = cuda.memory(content.size), cuda.stream()
    cuda.upload(source.array, memory.address, stream)
    cuda.download(memory.address, target.array, stream)
    stream.synchronize()
    assert np.array_equal(target.array, content)
    for owned in (source, target, memory):
        owned.close()


def test_nothing_waits_unasked(cuda, fake):
    source, target = filled(cuda, np.arange(8, dtype=np.uint8)), filled(cuda, np.zeros(8, np.uint8))
    memory, stream = cuda.memory(8), cuda.stream()
    cuda.upload(source.array, memory.address, stream)
    cuda.download(memory.address, target.array, stream)
    assert not target.array.any()
    event = cuda.event()
    event.record(stream)
    event.synchronize()
    assert target.array.any()


@pytest.mark.parametrize("first", ["stream", "default_stream"])
def test_a_stream_waits_for_another(cuda, first):
    """Nothing is synchronized but the second one."""
    earlier, later, written = getattr(cuda, first)(), cuda.stream(), cuda.event()
    source, target = filled(cuda, np.full(8, 7, np.uint8)), filled(cuda, np.zeros(8, np.uint8))
    memory = cuda.memory(8)
    cuda.upload(source.array, memory.address, earlier)
    written.record(earlier)
    later.wait_for(written)
    cuda.download(memory.address, target.array, later)
    later.synchronize()
    assert target.array.tolist() == [7] * 8


def test_kernels_get_their_arguments_as_they_were(cuda, image):
    kernel = cuda.kernel(image, "scale_add")
    memory, stream = cuda.memory(1000), cuda.stream()
    source, target = filled(cuda, np.full(1000, 10, np.uint8)), cuda.pinned_memory(1000)
    cuda.upload(source.array, memory.address, stream)
    for shift in (1, 2):
        arguments = (memory.address, np.int32(999), np.float32(2.5), np.int32(shift))
        kernel((4,), (256,), arguments, stream)
    cuda.download(memory.address, target.array, stream)
    stream.synchronize()
    assert set(target.array[:999]) == {int(int(10 * 2.5 + 1) * 2.5 + 2)}
    assert target.array[999] == 10


def test_recorded_work_is_done_as_often_as_it_is_launched(cuda, image):
    kernel = cuda.kernel(image, "scale_add")
    memory, stream = cuda.memory(16), cuda.stream()
    source, target = filled(cuda, np.zeros(16, np.uint8)), filled(cuda, np.zeros(16, np.uint8))
    with cuda.recording(stream) as graph:
        cuda.upload(source.array, memory.address, stream)
        arguments = (memory.address, np.int32(16), np.float32(2), np.int32(1))
        kernel((1,), (32,), arguments, stream)
        cuda.download(memory.address, target.array, stream)
    stream.synchronize()
    assert not target.array.any()  # recorded, not done
    for value in (0, 5, 100):
        source.array[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert set(target.array) == {2 * value + 1}


def test_an_error_while_recording_ends_the_recording(cuda):
    stream, target = cuda.stream(), filled(cuda, np.zeros(4, np.uint8))
    with pytest.raises(ZeroDivisionError), cuda.recording(stream):
        1 / 0  # noqa: B018
    memory = cuda.memory(4)
    cuda.upload(target.array, memory.address, stream)
    stream.synchronize()


def test_time_is_that_between_events(cuda):
    first, second, stream = cuda.event(), cuda.event(), cuda.stream()
    source, memory = filled(cuda, np.zeros(1 << 20, np.uint8)), cuda.memory(1 << 20)
    first.record(stream)
    cuda.upload(source.array, memory.address, stream)
    second.record(stream)
    second.synchronize()
    assert 0 < second.milliseconds_since(first) < 1000


def test_every_thread_makes_the_context_its_own(cuda):
    """A thread without `current()` has none; with it, objects of another thread serve."""
    content = np.arange(4, dtype=np.uint8)
    made_here = [(cuda.stream(), cuda.memory(4), filled(cuda, content + n)) for n in range(4)]
    results = [None] * 4

    def work(n):
        stream, memory, source = made_here[n]
        with cuda.current():
            target = filled(cuda, np.zeros(4, np.uint8))
            cuda.upload(source.array, memory.address, stream)
            cuda.download(memory.address, target.array, stream)
            stream.synchronize()
            results[n] = target.array.tolist()
            target.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[n, n + 1, n + 2, n + 3] for n in range(4)]


def test_memory_is_given_back(cuda, fake):
    before = fake.fake_used_bytes()
    memories = [cuda.memory(1000) for _ in range(3)]
    assert fake.fake_used_bytes() == before + 3000
    for memory in memories:
        memory.close()
    assert fake.fake_used_bytes() == before


def test_out_of_memory_is_an_error_of_its_own(fake):
    opened = importlib.import_module(BINDINGS[os.environ["SRGAN_EDGE_BINDING"]]).open_device()
    fake.fake_limit_memory(ctypes.c_size_t(1000))
    with pytest.raises(OutOfMemory, match="smaller tiles"), opened.current():
        opened.memory(2000)


def test_a_lost_gpu_is_reported(fake):
    opened = importlib.import_module(BINDINGS[os.environ["SRGAN_EDGE_BINDING"]]).open_device()
    with pytest.raises(EngineLost, match="the GPU failed"), opened.current():
        stream = opened.stream()
        fake.fake_break(46)
        stream.synchronize()


def test_a_missing_gpu_is_reported(fake):
    fake.fake_set_devices(0)
    module = importlib.import_module(BINDINGS[os.environ["SRGAN_EDGE_BINDING"]])
    with pytest.raises(ResourcesExhausted, match="no usable GPU"):
        module.open_device()


@pytest.fixture(scope="module")
def host_kernels(tmp_path_factory):
    """The kernels as functions of this process, known to the driver without a GPU by name."""
    if not FAKE or CXX is None:
        pytest.skip("with a GPU, `make gpu` runs them there; without, they need a C++ compiler")
    yield register_all(ctypes.CDLL(FAKE), tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize(
    ("flags", "is_active", "is_shared"), [(0, 0, True), (4, 1, True), (0, 1, False)]
)
def test_ffmpeg_takes_the_primary_context_where_waiting_sleeps(
    cuda, fake, flags, is_active, is_shared
):
    """PyTorch would open the context with different flags, which FFmpeg refuses."""
    fake.fake_primary_context(flags, is_active)
    assert share_primary_context(FAKE) is is_shared
    assert share_primary_context(FAKE) is is_shared


@pytest.mark.parametrize(("width", "height"), [(17, 9), (64, 20)])
def test_what_make_gpu_does_with_kernels(cuda, host_kernels, width, height):
    """Arguments in their order, outputs compared; the arithmetic is the CPU's."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    import gpu_kernels

    seen = set()
    for case in gpu_kernels.cases(width, height, seed=1):
        assert gpu_kernels.run(cuda, b"an image\0", case) == []
        seen.add(case.kernel)
    assert seen == source.KERNELS.keys()
    place = next(iter(case.expected))
    wrong = dataclasses.replace(case, expected={place: case.expected[place] ^ 1})
    with pytest.raises(AssertionError, match="bytes differ from the reference"):
        gpu_kernels.run(cuda, b"an image\0", wrong)


def test_kernels_are_timed_on_arrays_that_take_turns(cuda, fake, host_kernels, monkeypatch):
    """This driver's clock counts what its streams do: launches, and the event after each graph."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    import gpu_kernels

    case = next(gpu_kernels.cases(17, 9, seed=1))
    before = fake.fake_used_bytes()
    given = []
    monkeypatch.setattr(type(cuda), "memory", counted(type(cuda).memory, given))
    times = gpu_kernels.run(cuda, b"an image\0", case, 3 * case.moved_bytes - 1)
    assert sum(given) == 3 * case.moved_bytes
    launches = 3 * gpu_kernels.ROUNDS
    assert times == pytest.approx(2 * [(launches + 1) / launches])
    assert fake.fake_used_bytes() == before


def counted(memory, sizes):
    """`Cuda.memory` that notes what it is asked for."""

    def asked(self, size_bytes):
        sizes.append(size_bytes)
        return memory(self, size_bytes)

    return asked
