"""Foreign weights: matching ones convert exactly, others are named, and no code is run."""

import os
import pickle

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from srgan_edge.errors import ModelRefused, UsageError  # noqa: E402
from srgan_edge.export import convert  # noqa: E402
from srgan_edge.export.convert import (  # noqa: E402
    OUR_EPSILON,
    checkpoint_from_pickle,
    converted,
    layers_of,
    read_weights,
)
from srgan_edge.model.checkpoint import load_checkpoint  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402

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

    def __init__(self, bias=False, blocks=2, stages=2):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, CHANNELS, 9, padding=4), nn.PReLU())
        self.blocks = nn.Sequential(*(Residual(bias) for _ in range(blocks)))
        self.block7 = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS)
        )
        parts = []
        for _ in range(stages):
            parts += [nn.Conv2d(CHANNELS, 4 * CHANNELS, 3, padding=1), nn.PixelShuffle(2)]
            parts += [nn.PReLU()]
        self.up = nn.Sequential(*parts, nn.Conv2d(CHANNELS, 3, 9, padding=4))

    def forward(self, x):
        first = self.block1(x)
        return (torch.tanh(self.up(first + self.block7(self.blocks(first)))) + 1) / 2


class Compact(nn.Module):
    """Real-ESRGAN's SRVGGNetCompact, as its repository lays it out."""

    def __init__(self, convolutions=3, scale=4):
        super().__init__()
        self.scale = scale
        self.body = nn.ModuleList([nn.Conv2d(3, CHANNELS, 3, padding=1), nn.PReLU(CHANNELS)])
        for _ in range(convolutions):
            self.body += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.PReLU(CHANNELS)]
        self.body.append(nn.Conv2d(CHANNELS, 3 * scale**2, 3, padding=1))

    def forward(self, x):
        out = x
        for layer in self.body:
            out = layer(out)
        nearest = nn.functional.interpolate(x, scale_factor=self.scale)
        return nn.functional.pixel_shuffle(out, self.scale) + nearest


def randomised(network):
    torch.manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@pytest.mark.parametrize(
    ("wrap", "stages"),
    [(dict, 1), (lambda s: {"params_ema": s}, 2), (lambda s: {"state_dict": s}, 3)],
)
def test_a_foreign_srgan_computes_the_same(tmp_path, wrap, stages):
    foreign = randomised(ForeignSRGAN(stages=stages))
    state = {f"module.{key}": value for key, value in foreign.state_dict().items()}
    torch.save(wrap(state), tmp_path / "g.pth")
    layers = layers_of(read_weights(tmp_path / "g.pth").state)
    ours, spec = converted(layers, "g", "tanh", OUR_EPSILON, tmp_path / "g.pth")
    assert (spec.architecture, spec.blocks, spec.norm) == ("srresnet", 2, "batch")
    assert spec.scale == 2**stages
    lr = torch.rand(1, 3, 13, 18)
    assert torch.equal(ours(lr), foreign(lr))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_compact_model_becomes_an_edge_model(tmp_path, scale):
    foreign = randomised(Compact(scale=scale))
    torch.save({"params": foreign.state_dict()}, tmp_path / "c.pth")
    layers = layers_of(read_weights(tmp_path / "c.pth").state)
    ours, spec = converted(layers, "c", "linear", OUR_EPSILON, tmp_path / "c.pth")
    assert (spec.architecture, spec.blocks, spec.channels) == ("edge", 3, CHANNELS)
    assert spec.scale == scale
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
        (containing_itself(), "more than 8 records within each other"),
        ({"a.weight": torch.zeros(()).expand(1 << 20, 1 << 20)}, "at most 1073741824 bytes"),
    ],
)
def test_a_small_pickle_without_end_is_refused(tmp_path, state, said):
    torch.save(state, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 3000
    with pytest.raises(ModelRefused, match=said):
        checkpoint_from_pickle(tmp_path / "x.pth", tmp_path / "x.safetensors", "x")


def test_no_file_and_no_pickle(tmp_path):
    with pytest.raises(ModelRefused, match="No such file"):
        checkpoint_from_pickle(tmp_path / "none.pth", tmp_path / "x.safetensors", "x")
    os.mkfifo(tmp_path / "fifo.pth")  # opening one waits for a writer
    with pytest.raises(ModelRefused, match="not a file"):
        checkpoint_from_pickle(tmp_path / "fifo.pth", tmp_path / "x.safetensors", "x")
    (tmp_path / "photo.pth").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    with pytest.raises(ModelRefused) as refused:
        checkpoint_from_pickle(tmp_path / "photo.pth", tmp_path / "x.safetensors", "x")
    assert "Re-running" not in str(refused.value)  # torch advises to run the code in the file
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ModelRefused, match="not a plain file"):
        checkpoint_from_pickle(tmp_path / "text.pth", tmp_path / "x.safetensors", "x")


def plausible(norm="none", architecture="srresnet"):
    """The state of a generator that upscales about as bilinear interpolation does."""
    torch.manual_seed(0)
    return generator_from_spec(ModelSpec("x", architecture, CHANNELS, 10, norm=norm)).state_dict()


def convert_state(tmp_path, state, *arguments, **options):
    torch.save(state, tmp_path / "x.pth")
    return checkpoint_from_pickle(
        tmp_path / "x.pth", tmp_path / "x.safetensors", "x", *arguments, **options
    )


def refused(tmp_path, state, message, *arguments, **options):
    with pytest.raises(ModelRefused, match=message):
        convert_state(tmp_path, state, *arguments, **options)
    assert not (tmp_path / "x.safetensors").exists()


def test_weights_that_compute_no_image_are_refused(tmp_path):
    refused(
        tmp_path,
        randomised(ForeignSRGAN()).state_dict(),
        r"the layers fit, but a photograph upscaled by them has -?\d+\.\d dB where",
    )
    convert_state(tmp_path, plausible())


def test_another_epsilon_is_found_and_named(tmp_path):
    """With 0.8 the branches are faint; with 1e-5 each is 283 times as large."""
    state = plausible("batch")
    for key in state:
        if key.endswith("running_var"):
            state[key].zero_()
    (last,) = [key.removesuffix("running_var") for key in state if key.endswith("running_var")][-1:]
    state[last + "weight"].fill_(0.05)
    refused(tmp_path, state, r"with other options .*; type: .* --head linear --bn-epsilon 0\.8")
    refused(tmp_path, state, "--bn-epsilon 0.8", "linear")
    convert_state(tmp_path, state, epsilon=0.8)
    ours, _ = load_checkpoint(tmp_path / "x.safetensors")
    foreign = generator_from_spec(ModelSpec("x", "srresnet", CHANNELS, 10, norm="batch")).eval()
    foreign.load_state_dict(state)
    for module in foreign.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.8
    lr = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        assert torch.allclose(ours(lr), foreign(lr), atol=1e-5)


def test_a_tanh_that_was_not_typed_is_named(tmp_path):
    state = plausible()
    weight, bias = list(state)[-2:]
    state[weight] *= 2
    state[bias] = state[bias] * 2 - 1
    refused(tmp_path, state, "--head tanh$")
    assert convert_state(tmp_path, state, "tanh").head == "tanh"


def test_batch_normalization_without_weights_changes_nothing(tmp_path):
    state = plausible("batch")
    for key in [key.removesuffix("running_var") for key in state if "running_var" in key]:
        del state[key + "weight"], state[key + "bias"]
    for tensor in state.values():  # branches of zero, which any normalization keeps
        if tensor.shape[:2] == (CHANNELS, CHANNELS):
            tensor.zero_()
    convert_state(tmp_path, state)
    ours = load_checkpoint(tmp_path / "x.safetensors")[0].state_dict()
    scales = [key.replace("running_var", "weight") for key in ours if "running_var" in key]
    assert all((ours[key] == 1).all() for key in scales)


def test_averaged_weights_are_taken_and_named(tmp_path):
    wrong = {key: torch.zeros_like(value) for key, value in plausible().items()}
    said = []
    both = {"model": wrong, "model_ema": plausible(), "epoch": 3}
    convert_state(tmp_path, both, say=said.append)
    assert said == ["took model_ema; beside it: model"]
    (tmp_path / "x.safetensors").unlink()
    refused(tmp_path, both, "the layers fit, but", weights="model")
    with pytest.raises(UsageError, match="it has generator, model; type --weights generator"):
        convert_state(tmp_path, {"model": wrong, "generator": plausible()})
    with pytest.raises(UsageError, match="--weights ema; possible: model, model_ema"):
        convert_state(tmp_path, both, weights="ema")


def test_safetensors_of_others_are_read_in_the_order_of_their_numbers(tmp_path):
    state = plausible(architecture="edge")
    names = {}
    for key in state:
        names.setdefault(key.rpartition(".")[0], f"body.{len(names)}")
    foreign = {
        f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": v for key, v in state.items()
    }
    save_file({key: value.clone() for key, value in foreign.items()}, tmp_path / "c.safetensors")
    checkpoint_from_pickle(tmp_path / "c.safetensors", tmp_path / "x.safetensors", "x")
    ours, _ = load_checkpoint(tmp_path / "x.safetensors")
    assert all(map(torch.equal, ours.state_dict().values(), state.values()))


def test_a_reader_that_never_ends_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "SECONDS", 1e-9)
    refused(tmp_path, plausible(), "gave no sign of life for 1e-09 s")


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("architecture", ["edge", "srresnet"])
def test_the_scale_is_read_off_the_layers(tmp_path, architecture, scale):
    torch.manual_seed(1)
    spec = ModelSpec("x", architecture, CHANNELS, 2, scale=scale)
    foreign = generator_from_spec(spec).eval()
    layers = layers_of(foreign.state_dict())
    ours, found = converted(layers, "x", "linear", OUR_EPSILON, tmp_path / "x.pth")
    assert found == spec
    lr = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        assert torch.equal(ours(lr), foreign(lr))
