"""Videos are read in the process of the test, unless it is marked `children`."""

import pytest

from srgan_edge.transcode import join as video_join
from srgan_edge.transcode import upscale as video
from srgan_edge.video.excerpt_reader import open_video


@pytest.fixture(autouse=True)
def one_process(request, monkeypatch):
    """Run without the children that read the input, which take longer to start than most tests.

    Tests marked `children` run with them, as do those of kills and of the command line.
    """
    if request.node.get_closest_marker("children"):
        return
    monkeypatch.setattr(
        video, "_open", lambda source, options, way: open_video(source, **options.reading_file)
    )
    monkeypatch.setattr(video_join, "Remote", lambda *_, **__: None)  # as with an encoder on a GPU
