"""Foreign weights: matching ones convert exactly, others are named, and no code is run."""

import pickle

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from srgan_edge.errors import ModelRefused  # noqa: E402
from srgan_edge.export.convert import checkpoint_from_pickle  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint  # noqa: E402

pytestmark = pytest.mark.slow  # each reads its pickle in a process that imports torch

CHANNELS = 8


class Residual(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(CHANNELS)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(CHANNELS)

    def forward(self, x):
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class ForeignSRGAN(nn.Module):
    """Other names, one slope per PReLU, batch norm, no biases in the blocks, tanh at the end."""

    def __init__(self, bias=False, blocks=2):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, CHANNELS, 9, padding=4), nn.PReLU())
        self.blocks = nn.Sequential(*(Residual(bias) for _ in range(blocks)))
        self.block7 = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS)
        )
        stages = []
        for _ in range(2):
            stages += [nn.Conv2d(CHANNELS, 4 * CHANNELS, 3, padding=1), nn.PixelShuffle(2)]
            stages += [nn.PReLU()]
        self.up = nn.Sequential(*stages, nn.Conv2d(CHANNELS, 3, 9, padding=4))

    def forward(self, x):
        first = self.block1(x)
        return (torch.tanh(self.up(first + self.block7(self.blocks(first)))) + 1) / 2


class Compact(nn.Module):
    """Real-ESRGAN's SRVGGNetCompact, as its repository lays it out."""

    def __init__(self, convolutions=3):
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(3, CHANNELS, 3, padding=1), nn.PReLU(CHANNELS)])
        for _ in range(convolutions):
            self.body += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.PReLU(CHANNELS)]
        self.body.append(nn.Conv2d(CHANNELS, 48, 3, padding=1))

    def forward(self, x):
        out = x
        for layer in self.body:
            out = layer(out)
        return nn.functional.pixel_shuffle(out, 4) + nn.functional.interpolate(x, scale_factor=4)


def randomised(network):
    torch.manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.mark.parametrize("wrap", [dict, lambda s: {"params_ema": s}, lambda s: {"state_dict": s}])
def test_a_foreign_srgan_computes_the_same(tmp_path, wrap):
    foreign = randomised(ForeignSRGAN())
    state = {f"module.{key}": value for key, value in foreign.state_dict().items()}
    torch.save(wrap(state), tmp_path / "g.pth")
    spec = checkpoint_from_pickle(tmp_path / "g.pth", tmp_path / "g.safetensors", "g", "tanh")
    assert (spec.architecture, spec.blocks, spec.norm) == ("srresnet", 2, "batch")
    ours, _ = load_checkpoint(tmp_path / "g.safetensors")
    lr = torch.rand(1, 3, 13, 18)
    assert torch.equal(ours(lr), foreign(lr))


def test_a_compact_model_becomes_an_edge_model(tmp_path):
    foreign = randomised(Compact())
    torch.save({"params": foreign.state_dict()}, tmp_path / "c.pth")
    spec = checkpoint_from_pickle(tmp_path / "c.pth", tmp_path / "c.safetensors", "c")
    assert (spec.architecture, spec.blocks, spec.channels) == ("edge", 3, CHANNELS)
    ours, _ = load_checkpoint(tmp_path / "c.safetensors")
    lr = torch.rand(2, 3, 9, 7)
    assert torch.equal(ours(lr), foreign(lr))


def altered(change):
    state = dict(ForeignSRGAN(blocks=1).state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (altered(lambda s: s.pop("up.6.weight")), r"has up\.6 \(unknown layer: bias \[3\]\) where"),
        (
            altered(lambda s: s.update({"up.0.weight": torch.zeros(8, 8, 3, 3)})),
            r"has up\.0 \(conv: weight \[8, 8, 3, 3\]",
        ),
        (altered(lambda s: s.update(extra=torch.zeros(2, 3))), r"extra \[2, 3\]\) where"),
        ({"epoch": 3, "name": "x"}, "'epoch' is not a tensor"),
        ({"a.weight": torch.zeros(3, 3, 3, 3)}, "1 convolutions; not a generator"),
        ({}, "0 convolutions"),
        ([1, 2], "not a plain file of weights"),
    ],
)
def test_a_layer_that_does_not_fit_is_named(tmp_path, state, said):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ModelRefused, match=said):
        checkpoint_from_pickle(tmp_path / "x.pth", tmp_path / "x.safetensors", "x")
    assert not (tmp_path / "x.safetensors").exists()


class Exploit:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (open, (self.canary, "w"))


def test_a_pickle_that_runs_code_does_not(tmp_path):
    canary = tmp_path / "canary"
    for save in (
        lambda path: path.write_bytes(pickle.dumps(Exploit(str(canary)))),
        lambda path: torch.save(Exploit(str(canary)), path),
    ):
        save(tmp_path / "evil.pth")
        with pytest.raises(ModelRefused, match="not a plain file of weights"):
            checkpoint_from_pickle(tmp_path / "evil.pth", tmp_path / "x.safetensors", "x")
    assert not canary.exists()


def containing_itself():
    state = {}
    state["params"] = state
    return state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (containing_itself(), "it contains itself"),
        ({"a.weight": torch.zeros(()).expand(1 << 20, 1 << 20)}, "numbers, and 268435456 is"),
    ],
)
def test_a_small_pickle_without_end_is_refused(tmp_path, state, said):
    torch.save(state, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 3000
    with pytest.raises(ModelRefused, match=said):
        checkpoint_from_pickle(tmp_path / "x.pth", tmp_path / "x.safetensors", "x")


def test_no_file_and_no_pickle(tmp_path):
    with pytest.raises(ModelRefused, match="no such file"):
        checkpoint_from_pickle(tmp_path / "none.pth", tmp_path / "x.safetensors", "x")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ModelRefused, match="not a plain file"):
        checkpoint_from_pickle(tmp_path / "text.pth", tmp_path / "x.safetensors", "x")
