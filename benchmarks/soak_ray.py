"""Soak test of a Ray cluster: kills of nodes, workers and commands, and identical bytes.

    python benchmarks/soak_ray.py [--kills 50] [--nodes 3] [--out FILE.json]

A video is upscaled again and again by the nodes of a cluster, which are processes of this machine.
In each run the command, a worker or a node is killed at a random moment after the first segment; a
node that was killed is replaced before the next run. The command that was killed goes on by the
same command. The first node stays: it has the state of the cluster, without which none is left, and
the command runs on it.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
import psutil
from soak import kill_members

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import clips

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
START_MS = 100_000
"""Time that Ray gives a node's processes to start: other work may keep the machine busy."""


@dataclass(frozen=True)
class Result:
    """The result that is printed and stored."""

    nodes: int
    kills: dict[str, int]
    """Number of kills of a `worker`, of a `node`, and of the `command`."""
    videos: int
    """Number of videos that were finished, all with the bytes of one engine."""
    minutes: float


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=3)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Nodes(arguments.nodes) as nodes:
        source = clips.make(Path(folder) / "in.mp4", frames=600, audio=["eng"], options={"g": "20"})
        options = ["--device", "cpu", "--ray", nodes.address]
        videos = kill_members(source, Path(folder), arguments.kills, options, nodes.victims)
    kills = {"command": arguments.kills - nodes.kills.total(), **nodes.kills}
    minutes = round((time.monotonic() - began) / 60, 1)
    harness.publish(asdict(Result(arguments.nodes, kills, videos, minutes)), arguments.out)


class Nodes:
    """The nodes of a cluster on this machine. Use it in a `with`."""

    def __init__(self, number: int) -> None:
        from ray.cluster_utils import Cluster

        os.environ |= {"RAY_agent_register_timeout_ms": str(START_MS)}
        self._cluster = Cluster()
        self.kills: Counter[str] = Counter()
        self._cluster.add_node(**NODE, include_dashboard=False)
        for _ in range(number - 1):
            self._cluster.add_node(**NODE)
        self.address = str(self._cluster.address)

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *exception: object) -> None:
        self._cluster.shutdown()

    def victims(self, command: int) -> list[Callable[[], object]]:
        """Return calls that kill a worker or a node, but not the first one."""
        workers = [it for it in harness.family(os.getpid()) if it.name().startswith("ray::_Actor")]
        _, *others = self._cluster.list_all_nodes()
        return [
            *(partial(self._kill_worker, it) for it in workers),
            *(partial(self._replace, it) for it in others),
        ]

    def _kill_worker(self, worker: psutil.Process) -> None:
        worker.kill()
        self.kills["worker"] += 1

    def _replace(self, node: Any) -> None:  # noqa: ANN401 - one of Ray's
        self._cluster.remove_node(node, allow_graceful=False)
        self.kills["node"] += 1
        self._cluster.add_node(**NODE)


if __name__ == "__main__":
    main()
