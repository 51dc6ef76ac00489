"""A signal ends what it is for, and in time, whatever swallows it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvicorn
from processes import ran

from srgan_edge.serve.server import _Server
from srgan_edge.serve.service import Service
from srgan_edge.signals import STOPPING, ends_within, stop_signals

STUCK = """
import os, signal, sys, time
from srgan_edge.errors import Interrupted
from srgan_edge.signals import ends_within, last_steps

last_steps.append(lambda: print("last step", flush=True))

def interrupt(signum, frame):
    raise Interrupted(signum)

signal.signal(signal.SIGINT, interrupt)
signal.signal(signal.SIGTERM, interrupt)
signal.signal(signal.SIGHUP, interrupt)
with ends_within(0.3):
    while True:
        try:
            print("ready", flush=True)  # here, where a signal is already swallowed
            time.sleep(60)
        except BaseException:
            pass  # as Python does in a finalizer
"""


@pytest.mark.parametrize("number", STOPPING)
def test_a_process_that_swallows_the_exception_ends_all_the_same(number):
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", STUCK],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, said = process.communicate(timeout=20)
    assert (process.returncode, out.splitlines()[-1]) == (128 + number, "last step")
    assert said == f"srgan-edge: stopped by {number.name}; the same command goes on from there\n"


def test_a_second_signal_is_no_trouble(capfd):
    handler = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with ends_within(5):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capfd.readouterr().err == ""


def test_nothing_ends_what_was_over_in_time():
    handler = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with ends_within(0.05):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGINT, handler)


def test_the_first_signal_is_remembered_and_the_second_acts():
    acted = []
    handler = signal.signal(signal.SIGTERM, lambda *_: acted.append("handler"))
    try:
        with stop_signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (signals.received, acted) == (signal.SIGTERM, [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert acted == ["handler"]
    finally:
        signal.signal(signal.SIGTERM, handler)


LOADING = """
import os, signal, sys
from srgan_edge import cli

def app(**options):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        signal.pause()
    except BaseException as error:
        raise {kind}("initialization failed") from error

cli.app = app
cli.main()
"""


@pytest.mark.parametrize("kind", ["ImportError", "SystemError"])
def test_a_signal_while_a_library_is_loaded_is_a_signal(kind):
    ended = ran(LOADING.format(kind=kind), str(int(signal.SIGTERM)))
    assert ended.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in ended.stderr
    assert "SIGTERM" in ended.stderr


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_that_was_ignored_stays_so(cli, number):
    """A shell ignores SIGINT in what a script starts in the background."""
    handler = signal.signal(number, signal.SIG_IGN)
    try:
        assert cli("models")[0] == 0
        assert signal.getsignal(number) is signal.SIG_IGN
        with stop_signals() as signals:
            os.kill(os.getpid(), number)
            assert signals.received == 0
    finally:
        signal.signal(number, handler)


def test_a_service_that_ignores_a_signal_goes_on():
    server = _Server(uvicorn.Config(lambda *_: None), Service.__new__(Service))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with server.capture_signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == server.handle_exit
            assert signal.getsignal(signal.SIGHUP) == server.handle_exit
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)


TWO_MODELS = """
import faulthandler, os, signal
import numpy as np
from srgan_edge import Upscaler

faulthandler.enable()
image = np.zeros((8, 9, 3), np.uint8)
models = [Upscaler("edge-x4"), Upscaler("edge-real-x4")]
for model in models:
    model(image)
for model in models:
    model.close()
signal.signal(signal.SIGINT, lambda *_: print("heard", flush=True))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_is_heard_after_models_were_closed_in_any_order():
    """Each of OpenVINO's cores sets the stack on which handlers run, and takes it away."""
    ended = ran(TWO_MODELS)
    assert (ended.returncode, ended.stdout) == (0, "heard\n"), ended.stderr
