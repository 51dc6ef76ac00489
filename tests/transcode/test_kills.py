"""SIGKILL at any moment costs a segment at most, and never a byte of the result."""

import clips
import pytest
from killing import kill_again_and_again


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_fifteen_kills_change_no_byte(tmp_path, suffix):
    source = clips.make(tmp_path / "in.mp4", frames=250, audio=["eng"])
    done = kill_again_and_again(source, tmp_path / f"out{suffix}", kills=15, seed=len(suffix))
    assert done.kills == 15
    assert done.resumed > 0
