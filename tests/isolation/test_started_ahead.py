"""Processes that start before a child needs them."""

import psutil
import pytest
from clips import make

from srgan_edge.ahead import IMAGES, JOINER, VIDEOS, readers_started
from srgan_edge.isolation.child import started_ahead
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.transcode.join import Joiner


@pytest.fixture
def video(tmp_path):
    return make(tmp_path / "in.mkv", frames=3)


def children():
    return {child.pid for child in psutil.Process().children()}


def test_a_child_takes_the_process_that_was_started_for_it(video):
    before = children()
    with started_ahead([IsolatedReader.entry]):
        (ahead,) = children() - before
        with IsolatedReader(video) as reader:
            assert children() - before == {ahead}
            assert len(list(reader)) == 3
        with IsolatedReader(video) as reader:  # the next one starts its own
            assert len(list(reader)) == 3
    assert children() == before


def test_a_process_for_others_is_left_alone_and_ended_with_the_body(video):
    before = children()
    with started_ahead(["srgan_edge.isolation.images:serve"]):
        (ahead,) = children() - before
        with IsolatedReader(video) as reader:
            assert ahead in children() and len(children() - before) == 2
            assert len(list(reader)) == 3
    assert children() == before


def test_a_process_that_cannot_start_costs_nothing(video):
    ahead = started_ahead(["misbehaving:there_is_no_such_function"])
    with ahead, IsolatedReader(video) as reader:
        assert len(list(reader)) == 3


def test_a_process_that_waits_already_is_not_started_again(video):
    before = children()
    with started_ahead([VIDEOS, JOINER]), started_ahead([VIDEOS, VIDEOS]):
        assert len(children() - before) == 3
    assert children() == before


def test_entries_are_those_of_the_children():
    assert (ImageProcess.entry, IsolatedReader.entry, Joiner.entry) == (IMAGES, VIDEOS, JOINER)


@pytest.mark.parametrize(("name", "expected"), [("a.MKV", 2), ("a.png", 1), ("missing.mkv", 0)])
def test_the_name_of_the_first_input_decides_what_is_started(tmp_path, name, expected):
    (tmp_path / "a.MKV").touch()
    (tmp_path / "a.png").touch()
    before = children()
    with readers_started([str(tmp_path / name), "b.png"], looks=False):
        assert len(children() - before) == expected
    assert children() == before
