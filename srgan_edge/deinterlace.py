"""Pictures of two fields, half of a period apart, made into pictures of one moment.

Left as they are, moving edges are combs, and a network takes the teeth for detail.
"""

from collections import deque
from collections.abc import Iterator

import av
from av.filter import Graph
from av.video.frame import VideoFrame

from srgan_edge.errors import InputRefused
from srgan_edge.video_decoder import Picture

_BWDIF = "mode=send_frame:parity=auto:deint=interlaced"


class Deinterlacer:
    """FFmpeg's bwdif: for each picture one, at its time, of the moment of its first field.

    Which field is first, and whether there are two at all, is for each picture what its own flags
    say. What is not interlaced comes out as it went in, and so does a film of one frame, which has
    no other to tell movement by. Not thread-safe.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._inside: deque[Picture] = deque()

    def push(self, picture: Picture) -> Iterator[Picture]:
        """What is ready when this picture goes in: bwdif looks one ahead.

        Raises:
            InputRefused: bwdif does not take pixels of this format.
        """
        if self._inside and _shape(picture.frame) != _shape(self._inside[-1].frame):
            yield from self.finish()
        if self._graph is None and not picture.frame.interlaced_frame:
            yield picture
            return
        if self._graph is None:
            self._graph = _build_graph(picture)
        self._inside.append(picture)
        self._graph.vpush(picture.frame)
        yield from self._ready(self._graph)

    def finish(self) -> Iterator[Picture]:
        """The pictures that are still inside."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready(self._graph)
            self._graph = None

    def _ready(self, graph: Graph) -> Iterator[Picture]:
        while True:
            try:
                frame = graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            given = self._inside.popleft()
            if frame.format.name != given.frame.format.name:
                raise InputRefused(
                    f"cannot deinterlace {given.frame.format.name}; leave --deinterlace out"
                )
            yield given._replace(frame=frame)


def _build_graph(picture: Picture) -> Graph:
    frame, graph = picture.frame, Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    graph.link_nodes(source, graph.add("bwdif", _BWDIF), graph.add("buffersink")).configure()
    return graph


def _shape(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
