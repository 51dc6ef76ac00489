"""The simulation of many workers: the scheduler keeps them busy, and a slow one holds nobody up."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from fanout import World, simulation

WORLD = World(
    segments=64,
    segment_seconds=(1.9, 2.0, 2.1),
    segment_bytes=(10**6,),
    driver_seconds=(0.01,),
    plan_seconds=1.0,
    join_seconds=1.0,
)


def seconds(workers, world=WORLD):
    return simulation(workers, world, None, 1.0).seconds


def test_eight_workers_are_used_well():
    assert simulation(8, WORLD, seconds(1), 1.0).efficiency >= 0.85


def test_a_slow_worker_holds_nobody_up():
    slow = replace(WORLD, slow={0: 10.0})
    assert seconds(8) < seconds(8, slow) < 1.05 * seconds(7)


def test_what_is_done_on_one_machine_bounds_the_whole():
    by_link = simulation(64, replace(WORLD, link_bytes_per_second=1e6), None, 1.0)
    assert by_link.seconds >= 64
    assert by_link.link > 0.9
    by_join = simulation(64, replace(WORLD, join_seconds=100.0), None, 1.0)
    assert by_join.join > 0.9
