"""Children on a machine whose kernel enforces nothing, only for tests."""

import os
import time

from misbehaving import joiner_that_plants_links  # noqa: F401 - an entry

from srgan_edge.isolation import sandbox, system_calls

sandbox.keep_to_files = lambda *_: False
system_calls.keep_to_decoding = lambda *, writes=False: False


def leave_another(parent, request):
    """Start another process, which lives on, and send its number."""
    other = os.fork()
    if not other:
        time.sleep(1000)
    parent.send({"left": other})
    if request.get("ends"):
        os._exit(0)
    time.sleep(1000)
