"""The pipeline and its channels: order, completeness, and every way of ending."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from srgan_edge.pipeline import (
    IN_FLIGHT_BYTES,
    MOST_LIGHT,
    QUEUED_ITEMS,
    Channel,
    ConsumerGone,
    NewestChannel,
    upscale_video,
)
from srgan_edge.video.frame import CopiedPacket, Frame


def frame(number):
    return Frame(np.full((2, 3, 3), number, np.uint8), pts=number, duration=1)


class Recorder:
    """A sink that remembers; `fail_at` raises on that frame."""

    def __init__(self, fail_at=None):
        self.items, self.fail_at = [], fail_at

    def write(self, frame):
        if frame.pts == self.fail_at:
            raise OSError("disk full")
        self.items.append(frame)

    def copy(self, packet):
        self.items.append(packet)


def double(frame):
    return replace(frame, pixels=frame.pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_every_frame_once_in_order_and_packets_in_their_place():
    packets = [CopiedPacket(packet=object()) for _ in range(3)]
    source = [packets[0], frame(0), frame(1), packets[1], frame(2), packets[2]]
    sink, ticks = Recorder(), []
    frames = upscale_video(source, double, sink, lambda: ticks.append(1))
    assert [getattr(item, "pts", item) for item in sink.items] == [
        packets[0], 0, 1, packets[1], 2, packets[2],
    ]  # fmt: skip
    assert all(item.pixels.shape == (4, 6, 3) for item in sink.items if isinstance(item, Frame))
    assert frames == len(ticks) == 3


def test_an_error_of_the_source_is_raised_after_the_frames_before_it():
    def source():
        yield from map(frame, range(7))
        raise ValueError("damaged")

    sink = Recorder()
    with pytest.raises(ValueError, match="damaged"):
        upscale_video(source(), double, sink)
    assert [item.pts for item in sink.items] == list(range(7))


def test_a_source_that_hangs_is_ended_when_nobody_wants_more():
    closed = threading.Event()

    def source():
        yield from map(frame, range(3))
        closed.wait(60)

    def interrupt():
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source(), double, Recorder(), interrupt, end_source=closed.set)
    assert time.monotonic() - started < 5


def test_an_error_of_the_sink_stops_an_endless_source():
    decoded = 0

    def source():
        nonlocal decoded
        while True:
            yield frame(decoded % 200)
            decoded += 1

    with pytest.raises(OSError, match="disk full"):
        upscale_video(source(), double, Recorder(fail_at=5))
    assert decoded < 5 + 3 * QUEUED_ITEMS


def test_an_error_of_the_engine_stops_both_sides():
    def fail_on_three(frame):
        if frame.pts == 3:
            raise RuntimeError("engine lost")
        return double(frame)

    before, sink = threading.active_count(), Recorder()
    with pytest.raises(RuntimeError, match="engine lost"):
        upscale_video(map(frame, range(100)), fail_on_three, sink)
    assert [item.pts for item in sink.items] == [0, 1, 2]
    assert threading.active_count() <= before + 1  # the executor's, about to end


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_frames_leave_in_order_however_long_each_takes(slots):
    """Even frames are slow: they are overtaken inside and must not be outside."""
    at_work, most, lock = 0, 0, threading.Lock()

    def uneven(frame):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.004 if frame.pts % 2 == 0 else 0)
        with lock:
            at_work -= 1
        return double(frame)

    packet, sink = CopiedPacket(packet=object()), Recorder()
    source = [*map(frame, range(20)), packet, *map(frame, range(20, 40))]
    assert upscale_video(source, uneven, sink, slots=slots) == 40
    assert [getattr(item, "pts", None) for item in sink.items] == [
        *range(20), None, *range(20, 40),
    ]  # fmt: skip
    assert most <= slots
    assert slots == 1 or most > 1


def test_frames_that_wait_for_an_earlier_one_keep_no_slot():
    """Frames 0 and 3 are upscaled at once, although 1 and 2 are made of the result of 0."""
    both, finished, threads = threading.Barrier(2, timeout=20), threading.Event(), {}

    def upscale(frame):
        threads[frame.pts] = threading.current_thread()
        if frame.pts in (0, 3):
            both.wait()
            finished.set()
        else:
            assert finished.wait(20)
        return double(frame)

    sink = Recorder()
    upscale_video(
        map(frame, range(4)), upscale, sink, slots=2, is_light=lambda it: it.pts in (1, 2)
    )
    assert [item.pts for item in sink.items] == [0, 1, 2, 3]
    assert threads[1] is threads[2] is threading.current_thread()


def test_only_so_many_frames_wait_for_an_earlier_one():
    read, upscaling = 0, threading.Event()

    def source():
        nonlocal read
        for number in range(100):
            read = number
            yield frame(number)
        upscaling.set()

    def upscale(frame):
        if frame.pts == 0:
            assert not upscaling.wait(0.2), "all frames were read"
            assert read <= MOST_LIGHT + 2 * QUEUED_ITEMS
        return double(frame)

    sink = Recorder()
    upscale_video(source(), upscale, sink, slots=2, is_light=lambda it: it.pts > 0)
    assert [item.pts for item in sink.items] == list(range(100))


def test_a_slow_sink_holds_the_source_back():
    ahead = []
    written = Recorder()

    def source():
        for number in range(40):
            ahead.append(number - len(written.items))
            yield frame(number)

    class SlowSink(Recorder):
        def write(self, frame):
            time.sleep(0.002)
            written.write(frame)

    upscale_video(source(), double, SlowSink())
    assert len(written.items) == 40
    assert max(ahead) <= 2 * QUEUED_ITEMS + 4  # both channels, and what is in hand


@pytest.mark.parametrize(
    ("result_bytes", "most"),
    [(IN_FLIGHT_BYTES + 1, 3), (IN_FLIGHT_BYTES // 2, 4), (IN_FLIGHT_BYTES // 5, 7)],
)
def test_of_large_results_few_are_in_memory(result_bytes, most):
    """One in work and one queued, if no more fit, besides the one that is being encoded."""
    made, written, alive = [], [], []
    lock = threading.Lock()

    def upscale(given):
        with lock:
            made.append(given.pts)
            alive.append(len(made) - len(written))
        return double(given)

    class SlowSink(Recorder):
        def write(self, frame):
            time.sleep(0.003)
            super().write(frame)
            with lock:
                written.append(frame.pts)

    sink = SlowSink()
    upscale_video(map(frame, range(30)), upscale, sink, slots=4, result_bytes=result_bytes)
    assert written == list(range(30))
    assert max(alive) <= most


def test_a_channel_tells_the_producer_that_nobody_takes():
    channel = Channel(1)
    channel.put("a")
    threading.Timer(0.02, channel.abandon).start()
    with pytest.raises(ConsumerGone):
        channel.put("b")  # full: waits until it is abandoned


def test_no_frames_at_all():
    assert upscale_video([], double, Recorder()) == 0


def test_a_channel_of_the_newest_drops_the_oldest_and_keeps_what_must_not_be():
    channel = NewestChannel(2, may_be_dropped=lambda item: item < 100)
    for item in (1, 101, 2, 102, 3, 4, 103):
        channel.put(item)
    channel.end()
    assert list(channel) == [101, 102, 3, 4, 103]
    assert channel.dropped == 2
    channel.abandon()
    with pytest.raises(ConsumerGone):
        channel.put(5)


def test_with_the_newest_no_frame_waits_behind_another():
    """A slow engine meets a source that does not wait: what comes through is as new as can be."""
    clock, ages = time.monotonic(), []

    def source():
        for number in range(50):
            time.sleep(0.01)
            yield frame(number)

    def slow(item):
        time.sleep(0.05)
        ages.append(time.monotonic() - clock - (item.pts + 1) * 0.01)
        return item

    sink = Recorder()
    newest = NewestChannel(1, may_be_dropped=lambda item: isinstance(item, Frame))
    upscale_video(source(), slow, sink, newest=newest)
    numbers = [item.pts for item in sink.items]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 49
    assert len(numbers) + newest.dropped == 50
    assert newest.dropped > 20
    assert sorted(ages)[len(ages) // 2] < 0.15
