"""Processes that start before a child needs them."""

import psutil
import pytest
from clips import make

from srgan_edge.isolation.child import started_ahead
from srgan_edge.isolation.videos import IsolatedReader


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
