"""Frames that a decoder dropped are found by their times alone."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from srgan_edge.video.decoder import FrameLedger


def play(events, period=10):
    """Return the missing times; `events` are times sent, or received if in a tuple."""
    ledger, missing = FrameLedger(Fraction(period)), []
    for event in events:
        if isinstance(event, tuple):
            missing += ledger.receive(*event[:1], has_fields=len(event) > 1)
        else:
            ledger.send(event, 10)
    return [sent.pts for sent in missing + ledger.close()]


def test_a_frame_is_missing_once_a_later_one_comes():
    assert play([0, (0,), 20, 10, (20,)]) == [10]
    assert play([0, 20, 10, (10,), (20,)]) == [0]


def test_what_never_comes_is_missing_at_the_end():
    assert play([0, (0,), 10, 20]) == [10, 20]
    assert play([0, 10]) == [0, 10]
    assert play([]) == []


def test_two_frames_at_one_time():
    assert play([0, 40, 40, (0,), (40,), (40,), 80, (80,)]) == []
    assert play([0, 40, 40, (0,), (40,), 80, (80,)]) == [40]


def test_two_fields_are_one_frame():
    fields = "two fields"
    assert play([0, 5, 10, 15, (0, fields), (10, fields)]) == []
    assert play([0, 5, 10, 15, 20, 25, (0, fields), (20, fields)]) == [10, 15]
    assert play([0, 5, (0,), (5,)]) == []  # as fast as fields, but frames


@given(st.data(), st.sets(st.integers(-99, 999), min_size=1, max_size=30), st.integers(0, 4))
def test_exactly_the_swallowed_are_missing_however_packets_are_ordered(data, times, delay):
    """B-frames: a packet comes up to `delay` places before its turn."""
    shown = sorted(times)
    swallowed = data.draw(st.sets(st.sampled_from(shown)))
    order = sorted(shown, key=lambda pts: shown.index(pts) - data.draw(st.integers(0, delay)) * 1.5)
    events, sent = [], set()
    waiting = [pts for pts in shown if pts not in swallowed]
    for pts in order:
        events.append(pts)
        sent.add(pts)
        while waiting and all(p in sent for p in shown[: shown.index(waiting[0]) + 1]):
            events.append((waiting.pop(0),))
    assert sorted(play(events)) == sorted(swallowed)
