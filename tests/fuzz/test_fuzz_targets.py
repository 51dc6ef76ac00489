"""The fuzz targets on all that is in the corpus, and on a fixed sample of what a fuzzer tries."""

import random
import zlib

import pytest
from fuzz_targets import CORPUS, TARGETS, corpus, mutated

from srgan_edge.model.spec import ModelSpec

pytestmark = pytest.mark.slow

MUTATIONS = {
    **{"video": 60, "image": 300, "onnx": 150, "protocol": 300},
    **{"statements": 60, "onnx-edits": 100},
}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_sound(name):
    for content in TARGETS[name].seeds():
        TARGETS[name].run(content)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_refusals_comes_out(name):
    rng = random.Random(zlib.crc32(name.encode()))
    known = list(corpus(name))
    for content in known:
        TARGETS[name](content)
    for _ in range(MUTATIONS.get(name, 1000)):
        TARGETS[name](mutated(rng.choice(known), rng))


def test_every_finding_belongs_to_a_target():
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= TARGETS.keys()


def test_a_target_that_raises_anything_else_fails(monkeypatch):
    monkeypatch.setattr(ModelSpec, "from_json", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TARGETS["spec"](b"{}")
