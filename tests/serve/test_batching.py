"""Threads that share calls of an engine get what each alone would get."""

import threading
import time

import numpy as np
import pytest

from srgan_edge.engines.base import EngineInfo, NotFinite
from srgan_edge.model.library import find_model
from srgan_edge.serve.batching import SharedCalls


class Doubler:
    """Doubles pixels; an image whose first value is 255 is not finite."""

    info = EngineInfo("nearest", "cpu", "fp32", find_model("edge-x4").spec)

    def __init__(self):
        self.sizes = []

    def upscale(self, batch):
        self.sizes.append(len(batch))
        time.sleep(0.01)
        result = batch.repeat(2, axis=1).repeat(2, axis=2)
        if bad := [number for number, image in enumerate(batch) if image[0, 0, 0] == 255]:
            raise NotFinite(result, bad)
        return result

    def close(self):
        pass


def images(number, shape=(1, 4, 6, 3)):
    return np.random.default_rng(number).integers(0, 250, shape, dtype=np.uint8)


def together(shared, batches):
    """Upscale each batch in a thread of its own: results or errors, in their order."""
    results, barrier = [None] * len(batches), threading.Barrier(len(batches))

    def run(number):
        with shared.working():
            barrier.wait()
            try:
                results[number] = shared.upscale(batches[number])
            except Exception as error:
                results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_images_of_one_size_share_a_call():
    engine = Doubler()
    batches = [images(number, (1 + number % 2, 4, 6, 3)) for number in range(6)]
    results = together(SharedCalls(engine, 2.0, 16), batches)
    for batch, result in zip(batches, results, strict=True):
        np.testing.assert_array_equal(result, batch.repeat(2, axis=1).repeat(2, axis=2))
    assert sum(engine.sizes) == 9 and len(engine.sizes) < 6


def test_other_sizes_and_full_calls_are_separate():
    engine = Doubler()
    batches = [images(0), images(1, (1, 5, 5, 3)), images(2), images(3), images(4)]
    results = together(SharedCalls(engine, 0.2, 2), batches)
    assert [result.shape[1:3] for result in results] == [(8, 12), (10, 10)] + [(8, 12)] * 3
    assert max(engine.sizes) <= 2


def test_an_image_that_is_not_finite_is_nobody_elses():
    bad = np.full((1, 4, 6, 3), 255, np.uint8)
    results = together(SharedCalls(Doubler(), 2.0, 16), [images(0), bad, images(1)])
    assert isinstance(results[1], NotFinite) and results[1].frames == [0]
    assert results[0].shape == results[2].shape == (1, 8, 12, 3)


@pytest.mark.parametrize("working", [1, 2])
def test_nobody_waits_longer_than_for_others_at_work(working):
    shared = SharedCalls(Doubler(), 0.5, 16)
    began = time.monotonic()
    if working == 1:
        with shared.working():
            shared.upscale(images(0))
        assert time.monotonic() - began < 0.3
    else:
        with shared.working(), shared.working():
            shared.upscale(images(0))
        assert 0.5 <= time.monotonic() - began < 2
