"""Drive Firefox by its own protocol, Marionette: a socket and JSON, so that it needs no driver."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

FIREFOX = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
START_SECONDS = ANSWER_SECONDS = 120


class Firefox:
    """A running Firefox with one page."""

    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
        self._stream = self._socket.makefile("rb")
        self._received()  # its greeting
        self._sent = 0
        self.call("WebDriver:NewSession")

    def call(self, command, **parameters):
        """Return the answer to a command; one that fails is an error."""
        self._sent += 1
        text = json.dumps([0, self._sent, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(text), text))
        _, _, error, answer = self._received()
        assert error is None, error
        return answer

    def goto(self, path):
        self.call("WebDriver:Navigate", url=Path(path).as_uri())

    def evaluate(self, expression):
        return self.call("WebDriver:ExecuteScript", script=f"return {expression}", args=[])["value"]

    def screenshot(self):
        """Return the page as the bytes of a PNG."""
        return base64.b64decode(self.call("WebDriver:TakeScreenshot", full=False)["value"])

    def press(self, key):
        steps = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        keys = {"type": "key", "id": "keys", "actions": steps}
        self.call("WebDriver:PerformActions", actions=[keys])

    def drag(self, start, end):
        """Move the mouse with its button down, between two places of the page."""
        (x, y), (to_x, to_y) = start, end
        steps = [
            {"type": "pointerMove", "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "x": round(to_x), "y": round(to_y), "duration": 50},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "actions": steps}
        self.call("WebDriver:PerformActions", actions=[mouse])

    def close(self):
        self.call("Marionette:Quit", flags=["eForceQuit"])
        self._socket.close()

    def _received(self):
        size = b""
        while (digit := self._stream.read(1)) != b":":
            assert digit, "Firefox has gone"
            size += digit
        return json.loads(self._stream.read(int(size)))


@contextmanager
def opened(folder):
    """Yield a Firefox without a window, whose profile is made in a folder."""
    (folder / "user.js").write_text('user_pref("marionette.port", 0);\n')
    words = [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", str(folder)]
    process = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(folder)},
    )
    try:
        ends = time.monotonic() + START_SECONDS
        while not (text := _text_of(folder / "MarionetteActivePort")):
            assert process.poll() is None and time.monotonic() < ends, "Firefox does not start"
            time.sleep(0.05)
        firefox = Firefox(int(text))
        yield firefox
        firefox.close()
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def _text_of(path):
    return path.read_text().strip() if path.exists() else ""
