"""Checkpoints that are damaged, foreign or harmful: refused, and nothing in them is run."""

import io
import json
import os
import pickle
import struct
import time
import zipfile

import pytest

torch = pytest.importorskip("torch")
import safetensors.torch  # noqa: E402

from srgan_edge.errors import ModelRefused  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from srgan_edge.model.library import MAX_HEADER_BYTES, read_spec  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.spec import METADATA_KEY, ModelSpec  # noqa: E402

SPEC = ModelSpec("tiny", "edge", 4, 2)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "tiny.safetensors"
    torch.manual_seed(0)
    save_checkpoint(path, generator_from_spec(SPEC), SPEC)
    return path.read_bytes()


def parts(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def edited(change):
    def apply(content):
        header, data = parts(content)
        return joined(change(header) or header, data)

    return apply


def restated(change):
    """The tensors changed, and saved again by the library."""

    def apply(content):
        state = safetensors.torch.load(content)
        change(state)
        return safetensors.torch.save(state, metadata={METADATA_KEY: SPEC.to_json()})

    return apply


def first_of(header):
    return next(value for key, value in header.items() if key != "__metadata__")


def repeat_a_key(content):
    header, data = parts(content)
    text = json.dumps(header)
    name = next(key for key in header if key != "__metadata__")
    return joined(f'{text[:-1]}, "{name}": {json.dumps(header[name])}}}'.encode(), data)


def many_tensors(header):
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header.update({f"t{n}": empty for n in range(5000)})


def spec_of_scale(header):
    record = json.loads(header["__metadata__"][METADATA_KEY]) | {"scale": 2}
    header["__metadata__"][METADATA_KEY] = json.dumps(record)


def wider_spec(header):
    record = json.loads(header["__metadata__"][METADATA_KEY]) | {"channels": 1024}
    header["__metadata__"][METADATA_KEY] = json.dumps(record)


def set_first(**changes):
    return edited(lambda header: first_of(header).update(changes))


def value(number):
    def change(state):
        next(iter(state.values())).view(-1)[0] = number

    return restated(change)


def rename_all(state):
    for name in list(state):
        state[f"module.{name}"] = state.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: b"", "not a safetensors file", id="empty"),
        pytest.param(lambda c: os.urandom(0) + b"\xff" * 99, "not a safetensors", id="noise"),
        pytest.param(lambda c: struct.pack("<Q", 2**63) + c, "not a safetensors", id="C4 2^63"),
        pytest.param(lambda c: struct.pack("<Q", 200 << 20) + c, "not a safet", id="C4 200 MB"),
        pytest.param(lambda c: c[:-1], "damaged checkpoint", id="C5 cut"),
        pytest.param(lambda c: c[:100], "not a safetensors file", id="C5 cut in the header"),
        pytest.param(lambda c: c + b"x", "damaged checkpoint", id="C5 longer"),
        pytest.param(set_first(data_offsets=[0, 9]), "damaged checkpoint", id="C5 overlap"),
        pytest.param(set_first(shape=[2**40, 2**40]), "damaged", id="C5, C11 shape too large"),
        pytest.param(set_first(shape=[-1]), "damaged", id="C5 shape below zero"),
        pytest.param(set_first(dtype="F128"), "damaged", id="C5 no such type"),
        pytest.param(set_first(data_offsets=[2**63, 2**64]), "damaged", id="C5 far away"),
        pytest.param(lambda c: joined(b"[" * 9999, b""), "damaged safetensors", id="C5 deep JSON"),
        pytest.param(repeat_a_key, "a name occurs twice", id="C6 a name twice"),
        pytest.param(edited(many_tensors), r"\d+ tensors; at most 4096", id="C7 many tensors"),
        pytest.param(
            edited(lambda h: h.update({"x" * MAX_HEADER_BYTES: first_of(h)})),
            "not a safetensors file",
            id="C7, C9 a long header",
        ),
        pytest.param(value(float("nan")), "values that are not finite", id="C8 NaN"),
        pytest.param(value(float("-inf")), "values that are not finite", id="C8 infinity"),
        pytest.param(
            restated(lambda s: s.update({"../../x": torch.zeros(1)})),
            r"1 tensors missing or unknown.*: \.\./\.\./x",
            id="C9 a path for a name",
        ),
        pytest.param(restated(lambda s: s.popitem()), "1 tensors missing", id="C10 missing"),
        pytest.param(restated(rename_all), "tensors missing or unknown", id="C10 other names"),
        pytest.param(
            restated(lambda s: s.update({k: v.double() for k, v in s.items()})),
            "is torch.float64, not torch.float32",
            id="C10 other precision",
        ),
        pytest.param(
            restated(lambda s: s.update({k: v[..., None] for k, v in s.items()})),
            "has shape",
            id="C10 another shape",
        ),
        pytest.param(edited(spec_of_scale), r"tail\.weight has shape", id="C12 another scale"),
        pytest.param(edited(wider_spec), "has shape", id="C12 another width"),
        pytest.param(
            edited(lambda h: {**h, "__metadata__": {}}), "carries no srgan-edge", id="foreign"
        ),
        pytest.param(
            edited(lambda h: {**h, "__metadata__": {METADATA_KEY: 5}}), "not a srgan", id="no text"
        ),
        pytest.param(edited(lambda h: {**h, "__metadata__": 5}), "damaged", id="no metadata"),
    ],
)
def test_foreign_and_damaged_checkpoints_are_refused(tmp_path, good, change, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(change(good))
    started = time.monotonic()
    with pytest.raises(ModelRefused, match=message):
        load_checkpoint(path)
    assert time.monotonic() - started < 5


def test_the_good_one_loads(tmp_path, good):
    (tmp_path / "good.safetensors").write_bytes(good)
    _, spec = load_checkpoint(tmp_path / "good.safetensors")
    assert spec == SPEC


def test_a_header_length_that_looks_like_a_pickle_is_accepted(tmp_path, good):
    header, data = parts(good)
    text = json.dumps(header)
    path = tmp_path / "good.safetensors"
    path.write_bytes(joined(text.encode().ljust(0x480 if len(text) <= 0x480 else 0x580), data))
    assert path.read_bytes()[0] == 0x80
    assert load_checkpoint(path)[1] == SPEC


class Exploit:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (open, (self.canary, "w"))


def as_archive(exploit):
    content = io.BytesIO()
    torch.save(exploit, content)
    return content.getvalue()


def as_array(exploit):
    import numpy as np

    content = io.BytesIO()
    np.save(content, np.array([exploit], object), allow_pickle=True)
    return content.getvalue()


def as_torchscript(exploit):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(exploit))
        archive.writestr("x/constants.pkl", pickle.dumps(()))
        archive.writestr("x/version", "3\n")
    return content.getvalue()


@pytest.mark.parametrize(
    "suffix", [".safetensors", ".pth", ".pt", ".ckpt", ".pt2", ".npy", ".onnx"]
)
@pytest.mark.parametrize("form", [pickle.dumps, as_archive, as_torchscript, as_array])
def test_nothing_in_a_model_file_is_run(tmp_path, form, suffix):
    """C1 to C3: whatever it is called."""
    canary = tmp_path / "canary"
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(form(Exploit(str(canary))))
    for read in (read_spec, load_checkpoint):
        with pytest.raises(ModelRefused) as refusal:
            read(path)
    assert not canary.exists()
    if suffix == ".safetensors" and form is not as_array:
        assert "looks like a pickle" in str(refusal.value)
        assert f"srgan-edge convert {path}" in str(refusal.value)


def test_pipes_and_devices_are_no_checkpoints(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        for read in (read_spec, load_checkpoint):
            with pytest.raises(ModelRefused, match="not a file"):
                read(tmp_path / f"{name}.safetensors")


def test_weights_in_half_precision_are_widened(good, tmp_path):
    """Unfinished models are stored in float16."""
    halve = restated(lambda s: s.update({k: v.half() for k, v in s.items()}))
    path = tmp_path / "half.safetensors"
    path.write_bytes(halve(good))
    generator, spec = load_checkpoint(path)
    wanted = safetensors.torch.load(good)
    assert spec == SPEC
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, wanted[name].half().float())
