"""Two fields become one frame, with the content and the time of the first field."""

import av
import numpy as np
import pytest
from av.filter import Graph
from clips import MS

from srgan_edge.errors import InputRefused
from srgan_edge.video.frame import Frame
from srgan_edge.video.reader import VideoReader

SIZE = (64, 48)
PTS = [0, 40, 80, 125, 1000, 1040]
TOP, BOTTOM, NEITHER = "tff", "bff", "prog"
"""Field orders by the names of FFmpeg's `setfield`."""


def moment(number):
    """A bright bar, four pixels further to the right each time."""
    image = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    image[:, 4 + 4 * number : 12 + 4 * number] = 220
    return image


def image(number, order):
    """Two moments in one frame, the first one in the lines given by `order`."""
    if order == NEITHER:
        return moment(2 * number)
    first = 0 if order == TOP else 1
    woven = moment(2 * number + 1)
    woven[first::2] = moment(2 * number)[first::2]
    return woven


def flagged(frame, order):
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=MS
    )
    graph.link_nodes(source, graph.add("setfield", order), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def make(path, orders, pixel_format="yuv420p"):
    """A video whose frames have these field orders; FFV1 keeps them for each frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        (stream.width, stream.height), stream.pix_fmt = SIZE, pixel_format
        stream.time_base = stream.codec_context.time_base = MS
        for number, order in enumerate(orders):
            frame = av.VideoFrame.from_ndarray(image(number, order)).reformat(format=pixel_format)
            frame.pts, frame.time_base = PTS[number], MS
            container.mux(stream.encode(flagged(frame, order)))
        container.mux(stream.encode(None))
    return path


def read(path, **options):
    with VideoReader(path, **options) as reader:
        return [item for item in reader if isinstance(item, Frame)], reader


def far(pixels, expected):
    return np.abs(pixels.astype(int) - expected.astype(int)).mean()


@pytest.mark.parametrize(
    "orders",
    [
        [TOP] * 6,
        [BOTTOM] * 6,
        [TOP] * 3 + [BOTTOM] * 3,
        [NEITHER] * 2 + [TOP] * 2 + [NEITHER] * 2,
        [BOTTOM, BOTTOM],
        [TOP, NEITHER],
    ],
    ids=lambda orders: " ".join(orders),
)
def test_a_frame_becomes_the_moment_of_its_first_field(tmp_path, orders):
    source = make(tmp_path / "in.mkv", orders)
    woven, before = read(source)
    clean, after = read(source, deinterlace=True)
    assert before.notes.interlaced == after.notes.interlaced == len(orders) - orders.count(NEITHER)
    assert [frame.pts for frame in clean] == [frame.pts for frame in woven] == PTS[: len(orders)]
    assert [frame.duration for frame in clean] == [frame.duration for frame in woven]
    for number, (frame, order) in enumerate(zip(clean, orders, strict=True)):
        assert far(frame.pixels, moment(2 * number)) < 3
        if order == NEITHER:
            np.testing.assert_array_equal(frame.pixels, woven[number].pixels)


def test_a_video_of_one_frame_keeps_it(tmp_path):
    source = make(tmp_path / "in.mkv", [TOP])
    (frame,), _ = read(source, deinterlace=True)
    assert frame.pts == 0


def test_a_video_that_is_not_interlaced_is_said_to_be_none(tmp_path):
    assert not read(make(tmp_path / "a.mkv", [NEITHER] * 3))[1].info.interlaced
    assert read(make(tmp_path / "b.mkv", [TOP] * 3), deinterlace=True)[1].info.interlaced


def test_a_format_that_bwdif_does_not_take_is_refused(tmp_path):
    source = make(tmp_path / "in.mkv", [TOP] * 3, "bgr0")
    assert len(read(source)[0]) == 3
    with pytest.raises(InputRefused, match="cannot deinterlace bgr0; leave --deinterlace out"):
        read(source, deinterlace=True)


def test_the_command_line_says_what_it_does_with_fields(cli, tmp_path):
    make(tmp_path / "in.mkv", [NEITHER] * 4 + [TOP] * 2)
    arguments = ("upscale", "in.mkv", "-n", "edge-x4", "--overwrite")
    code, _, said = cli(*arguments)
    assert (code, "2 of its frames are interlaced: try --deinterlace" in said) == (0, True)
    code, _, said = cli(*arguments, "--deinterlace")
    assert (code, "interlaced" in said) == (0, False)
    with VideoReader(tmp_path / "in_x4.mkv") as result:
        assert len(list(result)) == 6
        assert (result.notes.interlaced, result.video.codec_context.field_order) == (0, 1)
