"""Weights laid out like those of leftthomas/SRGAN compute what that program computes."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("spandrel")

import torch.nn.functional as F  # noqa: E402
from spandrel import MAIN_REGISTRY, UnsupportedModelError  # noqa: E402

from srgan_edge.export import foreign_child  # noqa: E402, F401 - registers it
from srgan_edge.export.prelu_srgan import PReluSRGAN  # noqa: E402


def random_weights(blocks, stages, channels=6):
    torch.manual_seed(3)
    state = PReluSRGAN(channels, blocks, stages).state_dict()
    for key, value in state.items():
        if key.endswith("running_var") or value.shape == (1,):
            value.uniform_(0.2, 0.9)
    return state


def computed(state, lr):
    """The generator of that program, tensor by tensor."""

    def conv(name, x):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[2] // 2)

    def norm(name, x):
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{kind}"] for kind in kinds))

    last = max(int(key.split(".")[0].removeprefix("block")) for key in state)
    first = x = F.prelu(conv("block1.0", lr), state["block1.1.weight"])
    for number in range(2, last - 1):
        block = f"block{number}"
        more = F.prelu(
            norm(f"{block}.bn1", conv(f"{block}.conv1", x)), state[f"{block}.prelu.weight"]
        )
        x = x + norm(f"{block}.bn2", conv(f"{block}.conv2", more))
    end = f"block{last - 1}"
    x = first + F.prelu(conv(f"{end}.0", x), state[f"{end}.1.weight"])
    stage = 0
    while f"block{last}.{stage}.prelu.weight" in state:
        x = F.pixel_shuffle(conv(f"block{last}.{stage}.conv", x), 2)
        x = F.prelu(x, state[f"block{last}.{stage}.prelu.weight"])
        stage += 1
    return (torch.tanh(conv(f"block{last}.{stage}", x)) + 1) / 2


@pytest.mark.parametrize(("blocks", "stages"), [(1, 1), (5, 2), (2, 3)])
def test_it_is_recognized_and_computes_the_same(blocks, stages):
    state = random_weights(blocks, stages)
    found = MAIN_REGISTRY.load({key: value.clone() for key, value in state.items()})
    assert (found.architecture.name, found.scale) == ("SRGAN with PReLU", 2**stages)
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert torch.allclose(found.model.eval()(lr), computed(state, lr), atol=1e-6)


def test_another_layout_is_not_taken_for_it():
    state = random_weights(1, 1)
    state["block3.1.bias"] = torch.zeros(6)
    state["block3.1.running_mean"] = torch.zeros(6)
    with pytest.raises(UnsupportedModelError):
        MAIN_REGISTRY.load(state)
