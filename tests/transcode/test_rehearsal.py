"""What a container can hold is known before the first frame; audio is copied, or kept as PCM."""

import struct
from fractions import Fraction

import av
import clips
import numpy as np
import pytest
from clips import make, see_frames, see_packets
from transcoding import Doubler, refused, upscale

from srgan_edge.errors import OutputFailed
from srgan_edge.transcode import join as video_join
from srgan_edge.transcode import segments
from srgan_edge.transcode.check import differences
from srgan_edge.transcode.record import VideoRecord
from srgan_edge.video.frame import Encoding

RATE = 8000


def _failing_after(frames):
    def fail(doubler, pixels):
        doubler.frames += 1
        if doubler.frames > frames:
            raise OSError(28, "No space left on device")
        return pixels.repeat(2, axis=0).repeat(2, axis=1)

    return fail


def with_audio(path, codec, video_codec="mpeg4", rate=RATE, layout="mono", seconds=1):
    """A video with a tone in `codec`."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(video_codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        tone = output.add_stream(codec, rate=rate, layout=layout, bit_rate=64000)
        output.start_encoding()
        for number in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(clips.barcode(number, (64, 48)))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
            for packet in tone.encode(_tone(number, rate, layout, tone.format.name)):
                output.mux_one(packet)
        output.mux(stream.encode(None))
        output.mux(tone.encode(None))
    return path


def _tone(number, rate, layout, samples):
    """40 ms of 440 Hz; another pitch in each channel."""
    channels = av.AudioLayout(layout).nb_channels
    times = (np.arange(rate // 25) + number * (rate // 25)) / rate
    tone = np.stack([np.sin(times * 2 * np.pi * 440 * (n + 1)) * 0.5 for n in range(channels)])
    frame = av.AudioFrame.from_ndarray((tone * 32767).astype(np.int16), "s16p", layout)
    frame.sample_rate, frame.pts = rate, number * (rate // 25)
    frame.time_base = Fraction(1, rate)
    return av.AudioResampler(samples, layout, rate).resample(frame)[0]


def heard(path):
    """Return the decoded audio: samples [N, channels] and the time of the first one."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    planes = [frame.to_ndarray() for frame in frames]
    channels = frames[0].layout.nb_channels
    planar = frames[0].format.is_planar
    parts = [plane.T if planar else plane.reshape(-1, channels) for plane in planes]
    return np.concatenate(parts), float(frames[0].pts * frames[0].time_base)


@pytest.mark.parametrize(
    ("codec", "suffix", "rate"),
    [
        ("wmav1", ".wmv", 44100),
        ("wmav2", ".wmv", 44100),
        ("adpcm_ms", ".avi", 22050),
        ("adpcm_ima_wav", ".avi", 22050),
        ("adpcm_yamaha", ".avi", 22050),
        ("pcm_alaw", ".avi", RATE),
        ("pcm_mulaw", ".mov", RATE),
    ],
)
def test_matroska_holds_audio_by_its_windows_tag(tmp_path, codec, suffix, rate):
    source = with_audio(tmp_path / f"in{suffix}", codec, rate=rate)
    assert not any("becomes" in note for note in upscale(source, tmp_path / "out.mkv"))
    copied, [packets] = see_packets(source, "audio")[0], see_packets(tmp_path / "out.mkv", "audio")
    assert [packet.digest for packet in packets] == [packet.digest for packet in copied]
    samples, start = heard(source)
    samples_after, start_after = heard(tmp_path / "out.mkv")
    assert np.array_equal(samples, samples_after)
    assert abs(start - start_after) <= 0.001
    # and from Matroska to Matroska
    upscale(tmp_path / "out.mkv", tmp_path / "again.mkv")
    assert np.array_equal(heard(tmp_path / "again.mkv")[0], samples)


@pytest.mark.parametrize(
    "name", ["flv_speex.flv", "h263_amr.3gp", "wmv2_wmav2.wmv", "h264_g711alaw.mkv"]
)
def test_audio_of_files_from_the_world_is_copied_to_matroska(tmp_path, shared_cases, name):
    source = shared_cases / "01-sound-that-matroska-holds-is-refused" / name
    upscale(source, tmp_path / "out.mkv")
    assert np.array_equal(heard(tmp_path / "out.mkv")[0], heard(source)[0])
    before, after = see_packets(source, "audio"), see_packets(tmp_path / "out.mkv", "audio")
    assert [p.digest for p in after[0]] == [p.digest for p in before[0]]


@pytest.mark.parametrize(
    ("name", "codec", "stored_as"),
    [
        ("avchd_lpcm.m2ts", "pcm_bluray", "pcm_s16le"),
        ("dvd_lpcm.vob", "pcm_dvd", "pcm_s16le"),
        ("broadcast_s302m.ts", "s302m", "pcm_s16le"),
        ("flv_nellymoser.flv", "nellymoser", "pcm_f32le"),
    ],
)
def test_audio_that_fits_nowhere_keeps_its_samples(tmp_path, shared_cases, name, codec, stored_as):
    source = shared_cases / "01-sound-that-matroska-holds-is-refused" / name
    notes = upscale(source, tmp_path / "out.mkv")
    assert any(f"({codec}) becomes {stored_as}" in note for note in notes)
    samples, start = heard(source)
    samples_after, start_after = heard(tmp_path / "out.mkv")
    assert np.array_equal(samples_after, samples)
    first = see_frames_start(source), see_frames_start(tmp_path / "out.mkv")
    assert abs((start - first[0]) - (start_after - first[1])) <= 0.0021  # in step with the video
    with av.open(str(tmp_path / "out.mkv")) as result:
        assert result.streams.audio[0].codec_context.name == stored_as
    refused(source, tmp_path / "no.mkv", "type|use|--audio convert", audio="copy")
    assert "left out" in " ".join(upscale(source, tmp_path / "mute.mkv", audio="drop"))


def see_frames_start(path):
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    return float(frame.pts * frame.time_base)


@pytest.mark.parametrize("codec", ["pcm_bluray", "pcm_dvd"])
def test_lpcm_of_24_bits_keeps_all_of_them(tmp_path, codec):
    """It is decoded to 32 bits, of which the lowest eight are zero."""
    noise = np.random.default_rng(0).integers(-(2**23), 2**23, (4, 2, 960), dtype=np.int32) << 8
    source = tmp_path / ("in.m2ts" if codec == "pcm_bluray" else "in.vob")
    options = {"mpegts_m2ts_mode": "1"} if codec == "pcm_bluray" else {}
    with av.open(str(source), "w", container_options=options) as output:
        stream = output.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        tone = output.add_stream(codec, rate=48000, layout="stereo")
        tone.codec_context.format = "s32"
        output.start_encoding()
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(clips.barcode(number, (64, 48)))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for number, part in enumerate(noise):
            packed = np.ascontiguousarray(part.T).reshape(1, -1)
            audio = av.AudioFrame.from_ndarray(packed, "s32", "stereo")
            audio.sample_rate, audio.time_base = 48000, Fraction(1, 48000)
            audio.pts = number * 960
            output.mux(tone.encode(audio))
        output.mux(tone.encode(None))
    upscale(source, tmp_path / "out.mkv")
    assert np.array_equal(heard(tmp_path / "out.mkv")[0], heard(source)[0])
    with av.open(str(tmp_path / "out.mkv")) as result:
        assert result.streams.audio[0].codec_context.name == "pcm_s24le"


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_audio_that_only_matroska_copies_becomes_pcm_elsewhere(tmp_path, suffix):
    source = with_audio(tmp_path / "in.avi", "adpcm_ms", rate=22050)
    notes = upscale(source, tmp_path / f"out{suffix}")
    assert any("becomes pcm_s16le" in n and "out.mkv keeps it" in n for n in notes)
    assert np.array_equal(heard(tmp_path / f"out{suffix}")[0], heard(source)[0])
    advice = r"cannot hold audio stream 1 \(adpcm_ms\); use -o \S*out\.mkv, or --audio convert"
    (tmp_path / f"out{suffix}").unlink()
    refused(source, tmp_path / f"out{suffix}", advice, audio="copy")


def test_without_audio(tmp_path):
    source = make(tmp_path / "in.mp4", audio=["eng"], frames=3)
    notes = upscale(source, tmp_path / "out.mp4", audio="drop")
    assert any("left out: audio stream 1 (aac)" in note for note in notes)
    assert see_packets(tmp_path / "out.mp4", "audio") == []


def test_audio_without_a_constant_packet_size_has_no_windows_tag(tmp_path):
    """That FLV states no duration of a packet, here of 186 ms, is not damage either."""
    source = with_audio(tmp_path / "in.flv", "adpcm_swf", "flv", rate=22050)
    assert any("becomes pcm_s16le" in note for note in upscale(source, tmp_path / "out.mkv"))
    assert np.array_equal(heard(tmp_path / "out.mkv")[0], heard(source)[0])


def test_pcm_may_be_cut_into_other_packets(tmp_path):
    """MOV makes packets of its own from the samples."""
    source = with_audio(tmp_path / "in.avi", "pcm_s16le", rate=48000)
    assert not any("becomes" in note for note in upscale(source, tmp_path / "out.mov"))
    assert np.array_equal(heard(tmp_path / "out.mov")[0], heard(source)[0])
    before, after = VideoRecord.of(source), VideoRecord.of(tmp_path / "out.mov")
    assert differences(before, after) == []
    [record] = before.packets.values()
    record.timeline.pts[5] += int(Fraction(1, 100) / record.timeline.time_base)
    [found] = differences(before, after)
    assert "audio pcm_s16le 5 is -10.0 ms late" in found


# ---------------------------------------------------------------- times


def test_two_frames_in_one_millisecond_fit_into_matroska(tmp_path):
    base = Fraction(1, 90000)
    times = [0, 3600, 7254, 7264, 14400]  # the third and the fourth both round to 81 ms
    source = make(tmp_path / "in.mp4", time_base=base, pts=times, last_duration=3600)
    upscale(source, tmp_path / "out.mkv")
    starts = [frame.start for frame in see_frames(tmp_path / "out.mkv")]
    assert [int(start * 1000) for start in starts] == [0, 40, 80, 81, 160]


def test_a_last_frame_of_one_tick_lasts_a_millisecond_in_matroska(tmp_path):
    source = make(tmp_path / "in.mp4", frames=5, last_duration=1)
    upscale(source, tmp_path / "out.mkv")
    last = see_frames(tmp_path / "out.mkv")[-1]
    assert last.end - last.start == Fraction(1, 1000)


def test_2000_frames_a_second_are_refused_for_matroska_before_the_work(tmp_path):
    times = list(range(0, 40 * 10, 10))
    source = make(
        *(tmp_path / "in.mp4",),
        time_base=Fraction(1, 20000),
        pts=times,
        last_duration=10,
        stated_rate=Fraction(2000),
    )
    advice = r"out\.mkv cannot hold .*frame \d+ is .* ms late.*; use -o \S*out\.mov"
    refused(source, tmp_path / "out.mkv", advice)
    upscale(source, tmp_path / "out.mov")
    before, after = see_frames(source), see_frames(tmp_path / "out.mov")
    assert [frame[:2] for frame in after] == [frame[:2] for frame in before]


def test_speex_is_refused_for_mov_before_the_work(tmp_path, shared_cases):
    source = shared_cases / "26-speex-into-mov" / "f3.flv"
    refused(source, tmp_path / "out.mov", r"29 packets instead of 30\); use -o \S*out\.mkv")
    upscale(source, tmp_path / "out.mkv")
    assert len(see_packets(tmp_path / "out.mkv", "audio")[0]) == 30


# ---------------------------------------------------------------- edit lists


def edited(path, parts):
    """A MOV of two seconds of which the edit list shows `parts`: start and duration in ms."""
    source = make(path, frames=50, audio=["eng"], options={"g": "5", "bf": "0", "crf": "20"})
    data = bytearray(source.read_bytes())
    source.write_bytes(_with_edits(data, parts))
    return source


def _boxes(data, start, end):
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        yield bytes(data[start + 4 : start + 8]), start, size
        start += size


def _with_edits(data, parts):
    """Replace the edit list of each track; the index lies behind the media, so nothing moves."""
    at, size = next((at, size) for kind, at, size in _boxes(data, 0, len(data)) if kind == b"moov")
    assert at + size == len(data)
    moov = b""
    scale = None
    for kind, box, length in _boxes(data, at + 8, at + size):
        content = bytes(data[box : box + length])
        if kind == b"mvhd":
            scale = int.from_bytes(content[20:24], "big")
            total = sum(duration for _, duration in parts) * scale // 1000
            content = content[:24] + total.to_bytes(4, "big") + content[28:]
        if kind == b"trak":
            content = _edited_track(content, parts, scale)
        moov += content
    return bytes(data[:at]) + struct.pack(">I4s", len(moov) + 8, b"moov") + moov


def _edited_track(track, parts, movie_scale):
    inner = list(_boxes(track, 8, len(track)))
    media, length = next((at, size) for kind, at, size in inner if kind == b"mdia")
    header = next(at for kind, at, _ in _boxes(track, media + 8, media + length) if kind == b"mdhd")
    media_scale = int.from_bytes(track[header + 20 : header + 24], "big")
    entries = b"".join(
        struct.pack(">IiHH", duration * movie_scale // 1000, start * media_scale // 1000, 1, 0)
        for start, duration in parts
    )
    elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(parts)) + entries
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    kept = [track[at : at + size] for kind, at, size in inner if kind != b"edts"]
    body = kept[0] + edts + b"".join(kept[1:])
    return struct.pack(">I4s", len(body) + 8, b"trak") + body


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".mp4"])
@pytest.mark.parametrize(
    "parts",
    [
        [(400, 400), (1200, 600)],
        [(1200, 600)],
        [(200, 400), (800, 200), (1200, 400)],
        [(100, 600)],  # hides four packets of audio, two more than any encoder puts before it
    ],
)
def test_what_an_edit_list_cut_away_stays_away(tmp_path, suffix, parts):
    source = edited(tmp_path / "in.mov", parts)
    notes = upscale(source, tmp_path / f"out{suffix}")
    between = [note for note in notes if "that are not played, between others that are" in note]
    assert len(between) == (len(parts) > 1)
    before, after = see_frames(source), see_frames(tmp_path / f"out{suffix}")
    assert [frame.number for frame in after] == [frame.number for frame in before]
    shift = after[0].start - before[0].start
    assert 0 <= shift < Fraction(1, 40)  # a packet of audio that begins before the cut
    late = [a.start - b.start - shift for a, b in zip(after, before, strict=True)]
    assert max(map(abs, late)) <= Fraction(1, 1000)
    with av.open(str(tmp_path / f"out{suffix}")) as result:
        packets = [p for p in result.demux(audio=0) if p.size and not p.is_discard]
        shown = sum(p.duration * p.time_base for p in packets)
        last = max((p.pts + p.duration) * p.time_base for p in packets)
    length = Fraction(sum(duration for _, duration in parts), 1000)
    packet = Fraction(1024, 44100)
    assert shown <= length + (len(parts) + 1) * packet
    assert abs(last - shift - length) <= packet


# ---------------------------------------------------------------- tracks without packets


@pytest.mark.parametrize(
    "name", ["h264_aac_and_a_track_without_packets.ts", "mpeg2_mp2_and_a_track_without_packets.ts"]
)
def test_a_track_without_packets_is_left_out(tmp_path, shared_cases, name):
    source = shared_cases / "06-transport-stream-with-a-silent-track" / name
    notes = upscale(source, tmp_path / "out.mkv")
    assert any("left out: audio stream 2" in note and "no packets" in note for note in notes)
    assert any("state no length: whether its end is missing is unknown" in note for note in notes)
    assert np.array_equal(heard(tmp_path / "out.mkv")[0], heard(source)[0])


@pytest.mark.children
def test_the_rehearsal_runs_in_the_child_that_joins(tmp_path):
    source = make(tmp_path / "in.mkv", audio=["eng"], frames=3)
    with video_join.Joiner(source, tmp_path, (128, 96), Encoding()) as joiner:
        assert joiner.rehearse(tmp_path / "out.mkv").left_out == ()
        assert not list((tmp_path / video_join.FOLDER).iterdir())


def test_resuming_needs_no_other_rehearsal(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 5)
    source = make(tmp_path / "in.mp4", frames=12, audio=["eng"])
    with monkeypatch.context() as failing:
        failing.setattr(Doubler, "upscale", _failing_after(11))
        with pytest.raises(OutputFailed, match="10 frames are kept"):
            upscale(source, tmp_path / "out.mp4", audio="drop")
    real, called = video_join.rehearse, []
    monkeypatch.setattr(video_join, "rehearse", lambda *a: called.append(a) or real(*a))
    notes = upscale(source, tmp_path / "out.mp4", audio="drop")
    assert called == []
    assert any("left out: audio stream 1 (aac)" in note for note in notes)


def test_a_full_disk_in_the_rehearsal_is_named(tmp_path, monkeypatch):
    source = make(tmp_path / "in.mkv", frames=3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_join.VideoMuxer, "open", full)
    with pytest.raises(OutputFailed, match="No space left"):
        upscale(source, tmp_path / "out.mkv")


@pytest.mark.parametrize("outscale", [0.5, 1, 1.5])
def test_a_final_scale_below_that_of_the_model(tmp_path, outscale):
    source = make(tmp_path / "in.mp4", frames=3, audio=["eng"])
    upscale(source, tmp_path / "out.mp4", outscale=outscale)
    with av.open(str(tmp_path / "out.mp4")) as result:
        context = result.streams.video[0].codec_context
        assert (context.width, context.height) == (int(64 * outscale), int(48 * outscale))


def test_cover_art_that_quicktime_does_not_store_is_named(tmp_path):
    source = clips.make(tmp_path / "in.mp4", frames=3, cover="mjpeg")
    assert any("left out: cover art 1 (mjpeg)" in it for it in upscale(source, tmp_path / "o.mov"))
    for name in ("o.mp4", "o.mkv"):
        assert not any("left out" in note for note in upscale(source, tmp_path / name))


def test_chapters_may_end_after_the_video_and_gaps_that_mp4_closes_are_named(tmp_path):
    late = clips.make(tmp_path / "late.mkv", frames=5, chapters=True)  # of 200 and 400 ms
    for name in ("late.mp4", "again.mkv"):
        assert not any("chapter" in note for note in upscale(late, tmp_path / name))
        late = tmp_path / name
    gap = tmp_path / "gap.mkv"
    with av.open(str(gap), "w") as output:
        stream = clips._add_video(output, clips.Clip())
        title = {"title": "part"}
        times = {"id": 1, "start": 40, "end": 90, "time_base": clips.MS, "metadata": title}
        output.set_chapters([times, times | {"id": 2, "start": 200, "end": 300, "metadata": {}}])
        output.start_encoding()
        clips._write_video(output, stream, clips.Clip())
    line = (
        "left out: the start of chapter 1 at 0.040 s; it is at 0.000 s; "
        "other times of chapters have changed, too"
    )
    assert any(line in note for note in upscale(gap, tmp_path / "gap.mp4"))
    assert not any("chapter" in note for note in upscale(gap, tmp_path / "gap2.mkv"))
