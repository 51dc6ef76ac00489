"""Functions called in a child process: their results, their errors, and the ways they fail."""

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from processes import children

from srgan_edge.errors import InputRefused, ResourcesExhausted
from srgan_edge.isolation import calls
from srgan_edge.isolation.calls import Remote
from srgan_edge.isolation.child import ChildFailed

pytestmark = pytest.mark.slow

Bytes = npt.NDArray[np.uint8]


def make_remote(entry="serve_functions", seconds=40):
    return Remote(f"misbehaving:{entry}", [], 512 << 20, seconds)


def test_one_child_serves_many_calls_and_outlives_refusals():
    with make_remote() as remote:
        assert remote.call(str, "count", "a") == "a 1"
        with pytest.raises(InputRefused, match=r"^b: no$"):
            remote.call(str, "refuse", "b")
        assert remote.call(str, "count", "c") == "c 2"


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("crash", r"crashed \(SIGABRT\)"),
        ("eat", "needs more than the 512 MiB it may have"),
        ("sleep", "gave no sign of life for 3 s"),
        ("divide", r"failed \(ZeroDivisionError: "),
    ],
)
def test_the_call_after_a_failure_gets_another_child(function, what):
    with make_remote(seconds=3 if function == "sleep" else 40) as remote:
        with pytest.raises(ChildFailed, match=what):
            remote.call(str, function)
        assert remote.call(str, "count", "a") == "a 1"
    assert children() == []


@pytest.mark.parametrize("entry", ["promise_much", "give_nothing", "point_outside"])
def test_lies_are_noticed(entry):
    with make_remote(entry) as remote, pytest.raises(ChildFailed, match="broke its protocol"):
        remote.call(Bytes, "ones", 3)


def test_a_result_of_another_type_is_a_failure():
    with make_remote() as remote, pytest.raises(ChildFailed, match="Expected `int`, got `str`"):
        remote.call(int, "count", "a")


def test_a_result_without_memory_costs_no_later_call(monkeypatch):
    def no_memory(size):
        raise ResourcesExhausted("no memory")

    with make_remote(seconds=5) as remote:
        assert remote.call(str, "count", "a") == "a 1"
        with monkeypatch.context() as full, pytest.raises(ResourcesExhausted):
            full.setattr(calls, "shared_memory", no_memory)
            remote.call(Bytes, "ones", 3)
        assert remote.call(str, "count", "a") == "a 1"


def test_a_call_after_the_end_starts_no_child():
    with make_remote() as remote:
        remote.call(str, "count", "a")
    with pytest.raises(ChildFailed, match="was closed"):
        remote.call(str, "count", "a")
    assert children() == []


def test_long_results_come_through_memory():
    with make_remote() as remote:
        assert remote.call(tuple[str, ...], "repeat", "x" * 1000, 900) == ("x" * 1000,) * 900
        with pytest.raises(ChildFailed, match="broke its protocol"):
            remote.call(tuple[str, ...], "repeat", "x" * 1000, 9000)


def test_arrays_outlive_the_next_call_and_the_child():
    with make_remote() as remote:
        first = remote.call(Bytes, "ones", 1_000_000)
        second = remote.call(Bytes, "ones", 3)
        first[:] += second[0]
    assert first.sum() == 2_000_000
    assert second.tolist() == [1, 1, 1]


PROGRAM = """
import os
from srgan_edge.isolation.calls import Remote
os.closerange(0, 3)
with Remote("misbehaving:serve_functions", [], 512 << 20, 40) as remote:
    os._exit(7 if remote.call(str, "count", "a") == "a 1" else 1)
"""


def test_a_program_started_without_standard_streams_has_children_too():
    folders = os.pathsep.join(map(os.path.abspath, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | {"PYTHONPATH": folders}, check=False
    )
    assert done.returncode == 7
