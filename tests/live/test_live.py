"""Live sources on loopback: real servers, lost connections, and frames dropped for newer ones."""

import errno
import functools
import http.server
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import pytest
from clips import MS, make, read_barcode, see_frames, see_packets
from streams import OPTIONS, Doubler, Listener, as_format, upscale

from srgan_edge.errors import InputDamaged, InputRefused
from srgan_edge.jobs.plan import Job
from srgan_edge.jobs.reporters import VideoDamaged
from srgan_edge.live import source as live_source
from srgan_edge.live.upscale import upscale_stream
from srgan_edge.signals import STOPPING
from srgan_edge.video.demuxer import Demuxer
from srgan_edge.video.endpoint import Address, InputPipe, OutputPipe
from srgan_edge.video.frame import Notes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
RATE = 25
FRAMES_OF_TWO_CONNECTIONS = 48 + 50  # two are still in the demuxer when the first one breaks
QUICK = {"analyzeduration": "1", "probesize": "32", "fpsprobesize": "0"}


@pytest.fixture(autouse=True)
def brief_patience(monkeypatch):
    monkeypatch.setattr(live_source, "TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(live_source, "TRIES", 3)
    monkeypatch.setattr(live_source, "FIRST_WAIT_SECONDS", 0.1)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two seconds with audio, a keyframe every fifth frame."""
    path = tmp_path_factory.mktemp("video") / "in.mkv"
    return make(path, frames=50, audio=["eng"], options={"crf": "18", "bf": "0", "g": "5"})


# ---------------------------------------------------------------- the newest frame


@contextmanager
def paced(video):
    """A pipe through which a video comes as fast as it plays, in NUT."""
    read_end, write_end = os.pipe()

    def send():
        play(video, f"pipe:{write_end}", "nut")
        os.close(write_end)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield InputPipe(read_end)
    finally:
        sender.join()
        os.close(read_end)


def play(video, url, name, seconds=None, **options):
    """Send the packets of a video when it is time for each."""
    with av.open(str(video)) as source:
        container_options = {"flush_packets": "1", **options}
        with av.open(url, "w", format=name, container_options=container_options) as output:
            streams = {s.index: output.add_stream_from_template(s) for s in source.streams}
            begun = time.monotonic()
            for packet in source.demux():
                if not packet.size or (seconds and packet.pts * packet.time_base > seconds):
                    continue
                due = begun + float(packet.pts * packet.time_base)
                time.sleep(max(0, due - time.monotonic()))
                packet.stream = streams[packet.stream_index]
                output.mux_one(packet)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_slow_engine_takes_the_newest_and_is_never_late(tmp_path, video, slots):
    seconds = 0.2
    target = tmp_path / "out.mkv"
    with paced(video) as pipe:
        result, listener, _ = upscale(pipe, target, Doubler(seconds, slots), live=True)
    frames = see_frames(target)
    assert len(frames) == result.frames
    assert result.frames + result.frames_dropped == 50
    assert result.frames_dropped > 25
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))
    assert numbers[-2:] == [48, 49]  # the newest of all are never dropped
    assert drift(frames) <= MS
    (audio,), (expected,) = see_packets(target, "audio"), see_packets(video, "audio")
    assert [packet.digest for packet in audio] == [packet.digest for packet in expected]
    (note,) = (note for note in listener.notes if "dropped for newer ones" in note)
    longest = float(note.rpartition("at most ")[2].removesuffix(" s"))
    assert seconds <= longest < 2 * seconds + 0.2, note


def test_a_fast_engine_drops_no_more_than_what_came_while_it_was_probed(tmp_path, video):
    target = tmp_path / "out.mkv"
    with paced(video) as pipe:
        result, _, _ = upscale(pipe, target, live=True)
    assert result.frames + result.frames_dropped == 50
    later = [frame.number for frame in see_frames(target) if frame.number >= 25]
    assert len(later) >= 20  # of 25; all of them, where nothing else keeps the machine busy


def drift(frames):
    """Return how far the times of numbered frames are from their original ones at 25 per second."""
    offsets = [frame.start - frame.number * 40 * MS for frame in frames]
    return max(offsets) - min(offsets)


def test_without_live_a_slow_engine_holds_the_source_up(tmp_path, video):
    with paced(video) as pipe:
        result, _, _ = upscale(pipe, tmp_path / "out.mkv", Doubler(0.06))
    assert (result.frames, result.frames_dropped) == (50, 0)


def test_no_frame_waits_on_its_way_out_of_a_pipe(video):
    """Measure from the time a frame is due until the upscaled one can be read."""
    read_end, write_end = os.pipe()
    late = []

    def watch():
        with av.open(f"pipe:{read_end}", options=QUICK) as result:
            stream = result.streams.video[0]
            for frame in result.decode(stream):
                number = read_barcode(frame.to_ndarray(format="rgb24"))
                late.append(time.monotonic() - begun - number / RATE)

    watcher = threading.Thread(target=watch)
    begun = time.monotonic()
    with paced(video) as pipe:
        watcher.start()
        job = Job(Path(pipe.name), Path("out"), "video", pipe, OutputPipe("nut", write_end))
        upscale_stream(job, Doubler(0.1), replace(OPTIONS, live=True), Listener())
        os.close(write_end)
        watcher.join()
    os.close(read_end)
    assert len(late) > 8
    assert max(late[-5:]) < 1  # what is probed at the beginning is longer under way


# ---------------------------------------------------------------- the network


@contextmanager
def web_server(folder, handler=http.server.SimpleHTTPRequestHandler):
    class Quiet(handler):
        def log_message(self, *message): ...

    server = http.server.ThreadingHTTPServer(
        (LOOPBACK, 0), functools.partial(Quiet, directory=folder)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_hls(video, folder, seconds=0.4):
    with av.open(str(video)) as source:
        options = {"hls_time": str(seconds), "hls_list_size": "0"}
        with av.open(str(folder / "live.m3u8"), "w", format="hls", options=options) as output:
            streams = {s.index: output.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                if packet.size:
                    packet.stream = streams[packet.stream_index]
                    output.mux_one(packet)


@pytest.mark.parametrize("live", [False, True])
def test_hls_is_read_over_http_to_its_end(tmp_path, video, live):
    folder = tmp_path / "www"
    folder.mkdir()
    write_hls(video, folder)
    assert len(list(folder.glob("*.ts"))) > 2
    target = tmp_path / "out.mkv"
    with web_server(folder) as url:
        result, _, _ = upscale(Address(f"{url}/live.m3u8"), target, live=live)
    frames = see_frames(target)
    if live:  # a segment comes at once, and is not taken for a source that is too fast
        assert result.frames >= 45  # all, where nothing else keeps the machine busy
        assert result.frames + result.frames_dropped == 50
    else:
        assert [frame.number for frame in frames] == list(range(50))
    assert drift(frames) <= MS
    assert len(see_packets(target, "audio")[0]) == len(see_packets(video, "audio")[0])


def test_broadcast_audio_goes_into_a_pipe(tmp_path, video):
    """A transport stream describes AAC in each packet, Matroska in the header."""
    folder = tmp_path / "www"
    folder.mkdir()
    write_hls(video, folder)
    with web_server(folder) as url:
        _, _, got = upscale(Address(f"{url}/live.m3u8"), "matroska")
    (tmp_path / "out.mkv").write_bytes(got)
    with av.open(str(tmp_path / "out.mkv")) as result, av.open(str(video)) as source:
        (audio,), (expected,) = result.streams.audio, source.streams.audio
        assert audio.codec_context.extradata[:2] == expected.codec_context.extradata[:2]
        assert [frame.samples for frame in result.decode(audio)]
    (audio,), (expected,) = (see_packets(path, "audio") for path in (tmp_path / "out.mkv", video))
    assert [packet.digest for packet in audio] == [packet.digest for packet in expected]


@pytest.mark.parametrize(
    "segment", ["file:///etc/passwd", "/etc/passwd", "subfile,,start,0,end,9,,:/etc/passwd"]
)
def test_a_playlist_opens_no_file(tmp_path, segment):
    folder = tmp_path / "www"
    folder.mkdir()
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1,", segment, "#EXT-X-ENDLIST"]
    (folder / "live.m3u8").write_text("\n".join(lines))
    with web_server(folder) as url, pytest.raises(InputRefused):
        upscale(Address(f"{url}/live.m3u8"), tmp_path / "out.mkv")


def test_an_address_is_not_touched_without_leave(cli):
    with socket.create_server((LOOPBACK, 0)) as server:
        server.settimeout(0.3)
        url = f"http://{LOOPBACK}:{server.getsockname()[1]}/live.m3u8"
        code, _, err = cli("upscale", url, "-o", "out.mkv")
        assert code == 3
        assert "add --allow-network" in err
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_password_is_shown():
    assert Address("rtsp://me:secret@cam:554/live?token=1").name == "cam:554/live"


def test_a_server_that_says_nothing_is_not_waited_for(tmp_path):
    with socket.create_server((LOOPBACK, 0)) as server:
        for scheme, path in (("rtsp", "live"), ("http", "live.m3u8")):
            url = f"{scheme}://{LOOPBACK}:{server.getsockname()[1]}/{path}"
            begun = time.monotonic()
            with pytest.raises(InputRefused, match="nothing came in time"):
                upscale(Address(url), tmp_path / "out.mkv")
            assert time.monotonic() - begun < 5
    with pytest.raises(InputRefused, match="Connection refused"):
        upscale(Address(url), tmp_path / "out.mkv")


def test_what_was_not_built_in_is_said(tmp_path):
    try:
        av.open("srt://127.0.0.1:9", timeout=0.1)
    except av.ProtocolNotFoundError:
        with pytest.raises(InputRefused, match="this FFmpeg was built without srt"):
            upscale(Address("srt://127.0.0.1:9"), tmp_path / "out.mkv")
    except av.FFmpegError:
        pytest.skip("srt is built in here")


@contextmanager
def broadcast(video, port, repeats=1, pause=0.0):
    """A video sent as a transport stream over UDP, while it plays, until the body ends."""
    is_over = threading.Event()

    def send_all():
        for _ in range(repeats):
            if is_over.is_set():
                return
            play(video, f"udp://{LOOPBACK}:{port}?pkt_size=1316", "mpegts")
            time.sleep(pause)

    sender = threading.Thread(target=send_all)
    sender.start()
    try:
        yield f"udp://{LOOPBACK}:{port}"
    finally:
        is_over.set()
        sender.join()


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_broadcast_is_joined_in_its_midst_and_lost_at_its_end(tmp_path, video):
    target = tmp_path / "out.mkv"
    with broadcast(video, free_udp_port(), repeats=2) as url, pytest.raises(InputDamaged) as lost:
        time.sleep(0.5)
        upscale(Address(url), target)
    assert "lost, and not back after 3 tries" in str(lost.value)
    frames = see_frames(tmp_path / "out.partial.mkv")
    assert len(frames) > 50
    assert frames[0].start < 1


@pytest.mark.slow
def test_a_lost_connection_is_made_again(tmp_path, video):
    """The stream resumes as much later as it was away, with a note."""
    target, port = tmp_path / "out.mkv", free_udp_port()
    with broadcast(video, port, repeats=2, pause=2.5) as url, pytest.raises(InputDamaged):
        listener = Listener()
        job = Job(Path("udp"), target, "video", Address(url))
        upscale_stream(job, Doubler(), OPTIONS, listener)
    assert sum("connecting again in 0.1 s, try 1 of 3" in note for note in listener.notes) == 2
    assert sum("back after" in note for note in listener.notes) == 1
    frames = see_frames(tmp_path / "out.partial.mkv")
    gaps = [b.start - a.start for a, b in pairwise(frames)]
    assert len(frames) > 90
    assert [gap for gap in gaps if gap > 0.1] == [pytest.approx(2.5, abs=0.5)]


class DyingServer(http.server.SimpleHTTPRequestHandler):
    """Serves two segments and fails for all others."""

    def do_GET(self):
        if self.path.endswith(("2.ts", "3.ts", "4.ts")):
            self.close_connection = True
            self.connection.close()
        else:
            super().do_GET()


def test_a_server_that_dies_leaves_what_came_before(tmp_path, video):
    folder = tmp_path / "www"
    folder.mkdir()
    write_hls(video, folder)
    with web_server(folder, DyingServer) as url, pytest.raises(InputDamaged) as lost:
        upscale(Address(f"{url}/live.m3u8"), tmp_path / "out.mkv")
    assert "ends at 0.8" in str(lost.value)
    assert 15 < len(see_frames(tmp_path / "out.partial.mkv")) < 30


def test_a_playlist_whose_times_start_over_leaves_what_came_before(tmp_path, video):
    """HLS restarts its clock after an advertisement; reconnecting would play it from the start."""
    folder = tmp_path / "www"
    folder.mkdir()
    write_hls(video, folder)
    playlist = folder / "live.m3u8"
    head, end = playlist.read_text().removesuffix("#EXT-X-ENDLIST\n"), "#EXT-X-ENDLIST\n"
    again = head[head.index("#EXTINF") :]
    playlist.write_text(f"{head}#EXT-X-DISCONTINUITY\n{again}{end}")
    listener, target = Listener(), tmp_path / "out.mkv"
    with web_server(folder) as url, pytest.raises(InputDamaged, match="time goes back"):
        job = Job(Path("http"), target, "video", Address(f"{url}/live.m3u8"))
        upscale_stream(job, Doubler(), OPTIONS, listener)
    assert not any("again" in note for note in listener.notes)
    assert 45 < len(see_frames(tmp_path / "out.partial.mkv")) <= 55


def test_a_gap_of_a_playlist_is_named_by_the_times_of_the_result(tmp_path, video):
    folder = tmp_path / "www"
    folder.mkdir()
    write_hls(video, folder)
    playlist = folder / "live.m3u8"
    segments = playlist.read_text().split("#EXTINF")
    playlist.write_text("#EXTINF".join(segments[:2] + segments[-1:]))
    listener, target = Listener(), tmp_path / "out.mkv"
    with web_server(folder) as url:
        job = Job(Path("http"), target, "video", Address(f"{url}/live.m3u8"))
        upscale_stream(job, Doubler(), OPTIONS, listener)
    ((before, after),) = [
        (float(a.start), float(b.start))
        for a, b in pairwise(see_frames(target))
        if b.start > a.start + 1
    ]
    told = [note.partition(": ")[2] for note in listener.notes if "no frames" in note]
    times = f"{before:.2f}", f"{after:.2f} s"
    assert told == [
        f"no frames between {' and '.join(times)}",
        f"has no frames from {' to '.join(times)}",
    ]


class ForgettingServer(http.server.SimpleHTTPRequestHandler):
    """Serves a playlist without an end twice, and then what `after` returns."""

    requests, after = 0, None

    def do_GET(self):
        cls = type(self)
        if self.path.endswith(".m3u8"):
            cls.requests += 1
            if cls.requests > 2 and not cls.after(self):
                return
        super().do_GET()


def is_gone(server):
    server.send_error(404)


def is_silent(server):
    time.sleep(1.5)  # longer than a connection may be silent


def has_ended(server):
    playlist = Path(server.translate_path(server.path))
    if "ENDLIST" not in playlist.read_text():
        playlist.write_text(playlist.read_text() + "#EXT-X-ENDLIST\n")
    return True


def live_playlist(video, folder):
    folder.mkdir()
    write_hls(video, folder)
    playlist = folder / "live.m3u8"
    playlist.write_text(playlist.read_text().replace("#EXT-X-ENDLIST\n", ""))


@pytest.mark.parametrize("after", [is_gone, is_silent])
def test_a_playlist_that_is_gone_is_no_end(tmp_path, video, after):
    folder, target = tmp_path / "www", tmp_path / "out.mkv"
    live_playlist(video, folder)
    server = type("Server", (ForgettingServer,), {"after": after})
    with web_server(folder, server) as url, pytest.raises(InputDamaged) as lost:
        upscale(Address(f"{url}/live.m3u8"), target)
    assert "lost, and not back after 3 tries" in str(lost.value)
    assert not target.exists()
    assert len(see_frames(tmp_path / "out.partial.mkv")) > 10


def test_a_live_playlist_that_states_its_end_has_ended(tmp_path, video):
    folder, target = tmp_path / "www", tmp_path / "out.mkv"
    live_playlist(video, folder)
    server = type("Server", (ForgettingServer,), {"after": has_ended})
    with web_server(folder, server) as url:
        result, listener, _ = upscale(Address(f"{url}/live.m3u8"), target)
    assert result.frames > 10
    assert not any("again" in note for note in listener.notes)


def test_silence_is_called_silence(tmp_path, video):
    with (
        socket.create_server((LOOPBACK, 0)) as server,
        broadcast_tcp(server, video) as url,
        av.open(url, timeout=0.5) as container,
    ):
        demuxer = Demuxer(video, container, container.streams.video[0], Notes())
        assert len(list(demuxer)) > 10
    assert demuxer.broke_off == "nothing came in time"


@contextmanager
def broadcast_tcp(server, video):
    """A transport stream in one piece, whose sender then keeps the connection open."""

    def send():
        connection, _ = server.accept()
        with connection:
            connection.sendall(as_format(video, "mpegts"))
            done.wait(20)

    done = threading.Event()
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield f"tcp://{LOOPBACK}:{server.getsockname()[1]}"
    finally:
        done.set()
        sender.join()


class Connection:
    """Bytes that come over a network, and then either the end or the loss of the connection."""

    def __init__(self, content, *, is_lost):
        self._content, self._is_lost = io.BytesIO(content), is_lost

    def read(self, size):
        piece = self._content.read(size)
        if self._is_lost and not piece:
            raise av.error.ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return piece


def connect_to(monkeypatch, *connections):
    """Let an address be these connections, one after the other."""
    waiting = iter(connections)
    monkeypatch.setattr(
        live_source, "_open_address", lambda *_: av.open(next(waiting), format="mpegts")
    )


def with_a_broken_frame(stream, number):
    """A transport stream of which the header of one frame is nonsense."""
    with av.open(io.BytesIO(stream)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    header = packets[number][packets[number].rindex(b"\0\0\1") :][:24]
    assert stream.count(header) == 1
    return stream.replace(header, header[:4] + b"\xff\xff\xff" + header[7:])


@pytest.mark.parametrize("on_damage", ["conceal", "skip"])
def test_damage_before_a_lost_connection_is_not_forgotten(tmp_path, monkeypatch, video, on_damage):
    whole = as_format(video, "mpegts")
    broken = with_a_broken_frame(whole, 12)
    connect_to(monkeypatch, Connection(broken, is_lost=True), Connection(whole, is_lost=False))
    target, listener = tmp_path / "out.mkv", Listener()
    job = Job(Path("udp"), target, "video", Address("udp://127.0.0.1:9"))
    with pytest.raises(VideoDamaged) as damaged:
        upscale_stream(job, Doubler(), replace(OPTIONS, on_damage=on_damage), listener)
    assert sum("back after" in note for note in listener.notes) == 1
    assert "damaged: a frame cannot be decoded at" in str(damaged.value)
    assert "reset" not in str(damaged.value)
    result, conceal = damaged.value.video, on_damage == "conceal"
    assert result.frames_concealed == conceal
    assert result.frames == FRAMES_OF_TWO_CONNECTIONS - (not conceal)
    assert len(see_frames(Path(result.saved_as))) == result.frames
    assert Path(result.saved_as) == (target if conceal else tmp_path / "out.partial.mkv")


def test_a_lost_connection_alone_is_no_damage(tmp_path, monkeypatch, video):
    whole = as_format(video, "mpegts")
    connect_to(monkeypatch, Connection(whole, is_lost=True), Connection(whole, is_lost=False))
    result, listener, _ = upscale(Address("udp://127.0.0.1:9"), tmp_path / "out.mkv")
    assert sum("back after" in note for note in listener.notes) == 1
    assert (result.frames, result.frames_concealed) == (FRAMES_OF_TWO_CONNECTIONS, 0)


PROBE = "import gi; gi.require_version('GstRtspServer', '1.0')"
SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(service="0")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f"( filesrc location={sys.argv[1]} ! matroskademux ! h264parse config-interval=-1 "
    "! rtph264pay name=pay0 )"
)
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@contextmanager
def rtsp_server(video):
    """A real server, GStreamer's, if the system's Python has it."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if not python or subprocess.run([python, "-c", PROBE], capture_output=True).returncode:
        pytest.skip("needs gir1.2-gst-rtsp-server-1.0, python3-gi and GStreamer's plugins")
    process = subprocess.Popen([python, "-c", SERVER, str(video)], stdout=subprocess.PIPE)
    try:
        yield f"rtsp://{LOOPBACK}:{int(process.stdout.readline())}/live"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_rtsp_is_read(tmp_path, video):
    target = tmp_path / "out.mkv"
    with rtsp_server(video) as url:
        result, _, _ = upscale(Address(url), target)
    assert result.frames == 50
    frames = see_frames(target)
    assert [frame.number for frame in frames] == list(range(50))
    assert drift(frames) <= MS


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_the_end_of_a_live_video(tmp_path, video, number):
    target = tmp_path / "out.mkv"
    with broadcast(video, free_udp_port(), repeats=60) as url:  # until it is ended
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "srgan_edge", "upscale", url, "--allow-network", "--live"),
                *("-o", target, "-n", "edge-x4"),
            ],
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        while not list(tmp_path.glob(".out*")):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(1.5)
        assert not target.exists()
        asked = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        seconds = time.monotonic() - asked
        err = process.stderr.read().decode()
    assert seconds < 2
    frames = see_frames(target)
    assert f"the {len(frames)} frames until then are in {target}" in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]
