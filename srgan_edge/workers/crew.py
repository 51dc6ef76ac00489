"""The workers of a command, as its options name them."""

from collections.abc import Callable

from srgan_edge.jobs.plan import Options
from srgan_edge.run import Opened
from srgan_edge.transcode.fanout import Crew
from srgan_edge.workers.kind import Kind
from srgan_edge.workers.on_ray import RayActors
from srgan_edge.workers.processes import Processes
from srgan_edge.workers.worker import Start, facts_of


def crew_beside(
    opened: Opened,
    options: Options,
    slots: int,
    say: Callable[[str], None],
    readers: tuple[str, ...] = (),
) -> Crew:
    """Start workers of the same kind as an open model; use them in a `with`.

    Args:
        options: what the model was opened with, and `slots`.
        say: called with a line for the user about a worker of another kind.
        readers: see `Start`.

    Raises:
        SrganEdgeError: a worker does not open its engine.
        UsageError: no worker is of the same kind.
    """
    start = Start("", options, slots, readers)
    kind = Kind(facts_of(opened), say, options.allow_mixed)
    if options.ray is not None:
        return RayActors(options.ray, start, kind)
    return Processes(start, options.devices, kind)
