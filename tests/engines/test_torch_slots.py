"""PyTorch's engine on a GPU, for which PyTorch's CPU stands in: slots, recordings, failures.

A recording is one: the operations of the network on its own memory, done again as often as it is
replayed. What a CPU cannot show is that CUDA accepts these calls, and any time; `make gpu` does.
"""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import av
import numpy as np
import pytest
from clips import make

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from srgan_edge.cli import app  # noqa: E402
from srgan_edge.engines import torch as engine_module  # noqa: E402
from srgan_edge.engines.torch import TorchEngine  # noqa: E402
from srgan_edge.errors import EngineLost, OutOfMemory, UsageError  # noqa: E402
from srgan_edge.model.checkpoint import save_checkpoint  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402

SPEC = ModelSpec("edge", "edge", 6, 2)


class Recording(TorchDispatchMode):
    """`torch.cuda.CUDAGraph`: operations, and the memory of their arguments and results."""

    made: ClassVar = []
    fails_with: ClassVar = []

    def __init__(self):
        super().__init__()
        self.calls, self.replays = [], 0
        self.made.append(self)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.fails_with:
            raise self.fails_with.pop()
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        self.replays += 1
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            if again.data_ptr() != result.data_ptr():
                result.copy_(again)


class Stream:
    def __init__(self, device):
        self.device = device

    def synchronize(self):
        pass


@pytest.fixture
def gpu(monkeypatch):
    """A CPU that stands in for PyTorch's GPU; returns the recordings made on it."""

    @contextmanager
    def recording(graph, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        with graph:
            yield

    empty = torch.empty

    def unpinned(*shape, pin_memory=False, **options):
        return empty(*shape, **options)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch, "empty", unpinned)
    monkeypatch.setattr(engine_module, "_gpu_of", lambda device: torch.device("cpu"))
    monkeypatch.setattr(Recording, "made", [])
    monkeypatch.setattr(Recording, "fails_with", [])
    return Recording


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    torch.manual_seed(3)
    save_checkpoint(path, generator_from_spec(SPEC), SPEC)
    return path


def images(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize("fp32", [False, True])
def test_a_shape_is_recorded_when_it_comes_again(gpu, checkpoint, fp32):
    with TorchEngine(checkpoint, "cuda", fp32=fp32) as engine, TorchEngine(checkpoint) as reference:
        assert engine.info.precision == ("fp32" if fp32 else "fp16")
        for number in range(5):
            batch = np.roll(images(2, 7, 9), number)
            result, expected = engine.upscale(batch), reference.upscale(batch)
            assert np.abs(result.astype(int) - expected).max() <= (0 if fp32 else 1)
            assert len(gpu.made) == min(number, 1)
        assert gpu.made[0].replays == 4


def test_a_replay_equals_direct_computation(gpu, checkpoint):
    batch = images(1, 13, 5)
    with TorchEngine(checkpoint, "cuda") as engine:
        results = [engine.upscale(batch) for _ in range(3)]
        engine.upscale(255 - batch)
    assert gpu.made[0].replays == 3
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2]), "a later call changed an earlier result"


def test_recordings_are_few(gpu, checkpoint):
    """Whole batches and a last one that is shorter, frame after frame; then another size."""
    with TorchEngine(checkpoint, "cuda") as engine:
        for _ in range(4):
            for frames in (3, 3, 1):
                engine.upscale(images(frames, 8, 8))
        assert [graph.replays for graph in gpu.made] == [7, 3]
        for _ in range(2):
            engine.upscale(images(1, 9, 9))
        engine.upscale(images(3, 8, 8))  # has made room, and is recorded again
        assert [graph.replays for graph in gpu.made] == [7, 3, 1, 1]


def test_slots_work_at_once_and_none_mixes_them_up(gpu, checkpoint):
    batches = [np.roll(images(1, 6, 5), number) for number in range(40)]
    with TorchEngine(checkpoint, "cuda", slots=3) as engine:
        assert engine.info.slots == 3
        one_by_one = [engine.upscale(batch) for batch in batches]
        with ThreadPoolExecutor(5) as executor:
            results = list(executor.map(engine.upscale, batches))
    assert all(np.array_equal(*pair) for pair in zip(results, one_by_one, strict=True))
    assert 1 <= len(gpu.made) <= 3


def test_out_of_memory_is_reported_and_less_succeeds(gpu, checkpoint):
    with TorchEngine(checkpoint, "cuda") as engine:
        engine.upscale(images(2, 8, 8))
        gpu.fails_with.append(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
        with pytest.raises(OutOfMemory, match="smaller tiles or batches"):
            engine.upscale(images(2, 8, 8))
        for _ in range(2):
            engine.upscale(images(1, 8, 8))
        assert gpu.made[-1].replays == 1


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be", OutOfMemory),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", OutOfMemory),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", OutOfMemory),
        ("CUDA error: an illegal memory access was encountered\nCUDA kernel", EngineLost),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", EngineLost),
    ],
)
def test_failures_have_their_class(gpu, checkpoint, message, kind):
    with TorchEngine(checkpoint, "cuda") as engine:
        engine.upscale(images(1, 8, 8))
        gpu.fails_with.append(RuntimeError(message))
        with pytest.raises(kind) as raised:
            engine.upscale(images(1, 8, 8))
    assert kind is OutOfMemory or message.splitlines()[0].split(": ")[1] in str(raised.value)


def test_a_bug_stays_one(gpu, checkpoint):
    with TorchEngine(checkpoint, "cuda") as engine:
        engine.upscale(images(1, 8, 8))
        gpu.fails_with.append(RuntimeError("shape '[1]' is invalid"))
        with pytest.raises(RuntimeError, match="is invalid"):
            engine.upscale(images(1, 8, 8))


def test_a_video_goes_through_the_slots(gpu, tmp_path, monkeypatch, capsys):
    """A network for which FP16 only suffices for dark frames: others are repeated and counted."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(2)
    generator = generator_from_spec(SPEC).requires_grad_(False)
    for layer in (generator.body[0], generator.body[2]):
        layer.weight *= 200
    generator.tail.weight /= 200**2
    save_checkpoint(tmp_path / "large.safetensors", generator, SPEC)
    make(tmp_path / "in.mp4", frames=9, size=(64, 48))
    videos = []
    for device in ("cuda", "cpu"):
        arguments = ["upscale", "in.mp4", "-n", "large.safetensors", "--engine", "torch"]
        arguments += ["--device", device, "--crf", "0", "-o", f"{device}.mp4", "--json-events"]
        with pytest.raises(SystemExit) as ended:
            app(arguments, standalone_mode=False)
        assert not ended.value.code
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        redone = [event["tiles_redone"] for event in events if event["event"] == "ended"]
        said = [event["text"] for event in events if "not finite" in event.get("text", "")]
        assert (redone, len(said)) == (([9], 1) if device == "cuda" else ([0], 0))
        with av.open(f"{device}.mp4") as video:
            videos.append([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert len(gpu.made) >= 1
    assert np.array_equal(*videos)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", "cuda:one"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_refused(checkpoint, device):
    with pytest.raises(UsageError, match=f"--device {device}, but PyTorch finds 0 GPUs; possible"):
        TorchEngine(checkpoint, device)


def test_flags_of_the_process_are_left_as_they_were(checkpoint):
    """The result does not depend on the number of threads."""
    before = torch.backends.cudnn.allow_tf32
    with TorchEngine(checkpoint) as engine:
        threads = [
            threading.Thread(target=lambda: [engine.upscale(images(1, 9, 9)) for _ in range(9)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert torch.backends.cudnn.allow_tf32 == before
