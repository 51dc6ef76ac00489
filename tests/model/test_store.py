"""Models from elsewhere: registered ones, and downloads from a server on this machine."""

import hashlib
import http.server
import shlex
import shutil
import ssl
import subprocess
import threading
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from PIL import Image

from srgan_edge.errors import ModelRefused, ResourcesExhausted, UsageError
from srgan_edge.image.coding import Coding
from srgan_edge.model import store
from srgan_edge.model.library import find_model
from srgan_edge.model.store import ModelAddress, downloaded
from srgan_edge.suited import suited_to

CLEAN = Coding("PNG", False)
MODEL = find_model("edge-x4").file(".onnx")
SHA256 = hashlib.sha256(MODEL.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "store"))
    return tmp_path / "store"


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, seen, *arguments):
        self.seen = seen
        super().__init__(*arguments)

    def do_GET(self):
        self.seen.append(self.path)
        content = MODEL.read_bytes()
        if self.path in ("/moved/edge.onnx", "/owner/repo/resolve/v1.0/onnx/edge.onnx"):
            self.send_response(302)
            self.send_header("Location", "/files/edge.onnx?token=1")
            self.end_headers()
        elif self.path.startswith("/loop/"):
            self.send_response(307)
            self.send_header("Location", self.path)
            self.end_headers()
        elif self.path.startswith("/files/") or self.path.startswith("/short/"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: 1000 if "short" in self.path else None])
        elif self.path.startswith("/endless/"):
            self.send_response(200)
            self.end_headers()
            with suppress(ConnectionError):  # the other side has read enough
                for _ in range(64):
                    self.wfile.write(bytes(1 << 16))
        else:
            self.send_error(404)

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(encrypted=None):
    """Yield the port of a server on this machine, and the paths that were asked for."""
    seen = []
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, seen))
    made.handle_error = lambda *_: None  # a client that distrusts the certificate hangs up
    if encrypted:
        made.socket = encrypted.wrap_socket(made.socket, server_side=True)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made.server_port, seen
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def server():
    with serving() as (port, seen):
        yield f"http://127.0.0.1:{port}", seen


@pytest.fixture
def encrypted_server(tmp_path):
    """A server with a certificate that it signed itself, and that certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl, for a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "-x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2 -subj /CN=127.0.0.1"
    options += " -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", "req", *options.split(), "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as (port, seen):
        yield f"https://127.0.0.1:{port}", seen, certificate


@pytest.mark.parametrize("place", ["{base}/files/edge.onnx", "hf://owner/repo/onnx/edge.onnx@v1.0"])
def test_a_download_needs_a_certificate_that_is_trusted(encrypted_server, monkeypatch, place):
    base, seen, certificate = encrypted_server
    monkeypatch.setattr(store, "HUGGING_FACE", base)
    address = f"{place.format(base=base)}#sha256={SHA256}"
    with pytest.raises(ResourcesExhausted, match="certificate verify failed"):
        downloaded(address, allow_network=True)
    assert not seen
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    path = downloaded(address, allow_network=True)
    assert path.read_bytes() == MODEL.read_bytes()
    assert seen[-1].startswith("/files/edge.onnx")
    assert downloaded(address, allow_network=False) == path


@pytest.mark.parametrize("place", ["files/edge.onnx", "moved/edge.onnx"])
def test_a_download_is_verified_and_then_offline(server, place):
    base, seen = server
    address = f"{base}/{place}#sha256={SHA256.upper()}"
    with pytest.raises(UsageError, match=r"not in the cache; .* -n 'http.*' --allow-network"):
        find_model(address)
    assert seen == []
    model = find_model(address, allow_network=True)
    assert model.spec.name == "edge-x4"
    assert model.file(".onnx").read_bytes() == MODEL.read_bytes()
    asked = len(seen)
    assert find_model(address).spec.name == "edge-x4"
    assert len(seen) == asked
    model.file(".onnx").write_bytes(b"changed")  # is not used again
    with pytest.raises(UsageError, match="not in the cache"):
        find_model(address)


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [
        ("short/edge.onnx", ResourcesExhausted, "ended after 1000 of|IncompleteRead"),
        ("loop/edge.onnx", ResourcesExhausted, "more than 5 redirects"),
        ("none/edge.onnx", ResourcesExhausted, "the server answers 404"),
        ("endless/edge.onnx", ModelRefused, "has the SHA-256 .* not .*: another file"),
    ],
)
def test_what_is_not_the_file_is_not_kept(server, folder, place, error, said):
    base, _ = server
    with pytest.raises(error, match=said):
        downloaded(f"{base}/{place}#sha256={SHA256}", allow_network=True)
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_more_than_the_limit_is_not_kept(server, folder, monkeypatch):
    base, _ = server
    monkeypatch.setattr(store, "MAX_BYTES", 100_000)
    with pytest.raises(ModelRefused, match="larger than 100000 bytes"):
        downloaded(f"{base}/endless/edge.onnx#sha256={SHA256}", allow_network=True)
    assert store.downloaded_files() == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://h:99999/x.onnx", "Port out of range"),
        ("https://h:abc/x.onnx", "Port could not be cast"),
        ("https://[::1/x.onnx", "Invalid IPv6 URL"),
        ("https:///x.onnx", "names no host"),
        (f"https://{'a' * 300}.com/x.onnx", "label empty or too long"),
        ("https://a..b/x.onnx", "label empty or too long"),
    ],
)
def test_what_is_no_address_is_refused(address, said):
    with pytest.raises(UsageError, match=said):
        downloaded(f"{address}#sha256={SHA256}", allow_network=True)


@pytest.mark.parametrize(
    "place", ["http://h:abc/x", "https://[::1/x", "http://a..b/x", "file:///x"]
)
def test_a_redirect_to_no_address_is_one_line(server, monkeypatch, place):
    base, _ = server
    monkeypatch.setattr(store, "urljoin", lambda base, location: place)
    with pytest.raises(ResourcesExhausted, match="check the address"):
        downloaded(f"{base}/moved/edge.onnx#sha256={SHA256}", allow_network=True)


def test_a_password_is_not_repeated():
    with pytest.raises(UsageError, match=r"not sent: https://h/x.onnx; download") as refused:
        downloaded(f"https://me:secret@h/x.onnx#sha256={SHA256}", allow_network=True)
    assert "secret" not in str(refused.value)


def test_the_scheme_of_an_address_has_no_case(server):
    base, _ = server
    address = f"{base.replace('http', 'HTTP')}/files/edge.onnx#sha256={SHA256}"
    assert find_model(address, allow_network=True).spec.name == "edge-x4"


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(ResourcesExhausted, match=r"http://127\.0\.0\.1:9/a\.onnx: .*refused"):
        downloaded(f"http://127.0.0.1:9/a.onnx#sha256={SHA256}", allow_network=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://example.org/a.onnx", "names no content; type https://example.org/a.onnx#sha256"),
        ("https://example.org/a.onnx#sha256=12", "names no content"),
        (f"hf://owner/repo#sha256={SHA256}", "possible: hf://OWNER/REPO/FILE@REVISION"),
        (f"https://example.org/a.pth#sha256={SHA256}", "ends in 'a.pth'; possible"),
        (f"https://example.org/..%2f#sha256={SHA256}", "possible: a name in"),
    ],
)
def test_an_address_must_name_its_content(text, said):
    with pytest.raises(UsageError, match=said):
        downloaded(text, allow_network=True)


def test_hugging_face_has_short_addresses():
    address = ModelAddress.of(f"hf://owner/repo/onnx/a.onnx@v1.0#sha256={SHA256}")
    assert address.url == "https://huggingface.co/owner/repo/resolve/v1.0/onnx/a.onnx"
    assert address.path.name == "a.onnx"


def test_a_registered_model_has_a_name_and_serves_its_scale(cli):
    model = find_model("edge-x2").file(".onnx")
    code, out, _ = cli("models", "add", model, "--name", "mine-x2")
    assert (code, "registered mine-x2: edge, x2" in out) == (0, True)
    assert find_model("mine-x2").spec.name == "edge-x2"
    assert suited_to("image", CLEAN, 2, on_gpu=False).model == "mine-x2"
    assert cli("models", "add", model, "--name", "mine-x2")[0] == 2
    code, _, err = cli("models", "add", MODEL, "--name", "other-x2")
    assert (code, "the model has 4; type --name other-x4" in err) == (2, True)
    assert cli("models", "add", MODEL, "--name", "edge-x4")[0] == 2
    assert cli("models", "add", MODEL, "--name", "../x")[0] == 2
    assert cli("models", "add", MODEL, "--name", "auto")[0] == 2  # which -n never would open
    code, out, _ = cli("models")
    assert code == 0
    assert "mine-x2" in out and "registered" in out and "srgan-x4" in out
    assert cli("models", "rm", "mine-x2")[0] == 0
    assert cli("models", "rm", "mine-x2")[0] == 2
    assert suited_to("image", CLEAN, 2, on_gpu=False).model == "edge-x2"


def test_the_command_downloads_once(cli, server, tmp_path):
    base, seen = server
    (tmp_path / "p.png").write_bytes((find_model("edge-x4").file(".onnx").parent.parent
                                      / "demo" / "photo.png").read_bytes())  # fmt: skip
    address = f"{base}/files/edge.onnx#sha256={SHA256}"
    assert cli("upscale", "p.png", "-n", address)[0] == 2
    assert cli("upscale", "p.png", "-n", address, "--allow-network", "-t", "64")[0] == 0
    assert cli("upscale", "p.png", "-n", address, "--overwrite", "-t", "64")[0] == 0
    assert seen == ["/files/edge.onnx"]
    assert (tmp_path / "p_x4.png").is_file()
    assert "downloaded" in cli("models")[1]
    assert cli("models", "add", address, "--name", "kept")[0] == 0
    assert find_model("kept").spec.name == "edge-x4"


@pytest.mark.parametrize(
    "command",
    [
        *("info ADDRESS", "compare p.png -n ADDRESS", "export ADDRESS --onnx", "bench ADDRESS"),
        *("verify ADDRESS", "eval . -n ADDRESS", "blend ADDRESS edge-x4", "models add ADDRESS"),
        *("upscale p.png -n ADDRESS",),
    ],
)
def test_the_advice_for_an_address_works_in_every_command(cli, server, tmp_path, command):
    base, _ = server
    Image.new("RGB", (16, 16)).save(tmp_path / "p.png")
    address = f"{base}/files/edge.onnx#sha256={SHA256}"
    code, _, err = cli(*command.replace("ADDRESS", address).split())
    assert code == 2
    advised = shlex.split(err.partition("type: srgan-edge ")[2].replace("IMAGE", "p.png"))
    assert cli(*advised)[0] == 0
    assert "on the network" not in cli(*command.replace("ADDRESS", address).split())[2]
