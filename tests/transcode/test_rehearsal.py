"""What a container can hold is known before the first frame; audio is copied, or kept as PCM."""

import gc
import re
import struct
from dataclasses import replace
from fractions import Fraction

import av
import clips
import numpy as np
import pytest
from clips import make, see_frames, see_packets
from transcoding import Doubler, refused, upscale

from srgan_edge.errors import InputDamaged, OutputFailed
from srgan_edge.jobs.reporters import VideoDamaged
from srgan_edge.transcode import join as video_join
from srgan_edge.transcode import segments
from srgan_edge.transcode.check import differences, heard_ends, lost_layouts
from srgan_edge.transcode.record import VideoRecord
from srgan_edge.video.channels import channels_of
from srgan_edge.video.frame import Encoding
from srgan_edge.video.times import RisingTimes

RATE = 8000
_OPTIONS = {".m2ts": {"mpegts_m2ts_mode": "1"}}


def _failing_after(frames):
    def fail(doubler, pixels):
        doubler.frames += 1
        if doubler.frames > frames:
            raise OSError(28, "No space left on device")
        return pixels.repeat(2, axis=0).repeat(2, axis=1)

    return fail


def with_audio(path, codec, video_codec="mpeg4", rate=RATE, layout="mono", seconds=1, start=0):
    """A video with a tone in `codec`, from the second `start` on."""
    with av.open(str(path), "w", container_options=_OPTIONS.get(path.suffix, {})) as output:
        stream = output.add_stream(video_codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        tone = output.add_stream(codec, rate=rate, layout=layout, bit_rate=64000)
        output.start_encoding()
        for number in range(25 * start, 25 * (start + seconds)):
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


def _changing(path, codec, **second):
    """A transport stream whose audio changes its format from 48000 Hz in stereo after a second."""
    first = {"rate": 48000, "layout": "stereo"}
    for part, start, facts in (("1", 0, first), ("2", 1, first | second)):
        name = path.with_name(part + path.suffix)
        with_audio(name, codec, "mpeg2video", start=start, **facts)
        with path.open("ab") as both:
            both.write(name.read_bytes())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "second", "change"),
    [
        ("in.ts", "aac", {"rate": 32000}, "LC, 48000 Hz, 2 channels to LC, 32000 Hz, 2 channels"),
        ("in.ts", "aac", {"layout": "mono"}, "LC, 48000 Hz, 2 channels to LC, 48000 Hz, mono"),
        ("in.m2ts", "pcm_bluray", {"layout": "4.0"}, "48000 Hz, 2 channels, s16 to 48000 Hz, 4 ch"),
        ("in.m2ts", "pcm_bluray", {"rate": 96000}, "48000 Hz, 2 channels, s16 to 96000 Hz, 2 ch"),
    ],
)
@pytest.mark.parametrize("target", ["out.mkv", "out.mp4"])
def test_audio_that_changes_its_format_is_refused(tmp_path, name, codec, second, change, target):
    """It was all stored under the first: at a wrong pitch, as noise, or for no decoder."""
    source = _changing(tmp_path / name, codec, **second)
    advice = r" at [01]\.\d\d s; for one format: ffmpeg -i \S+ .*\); use --audio drop$"
    refused(source, tmp_path / target, rf"\({codec}\) changes from {change}.*{advice}")
    assert any(
        "left out: audio" in note for note in upscale(source, tmp_path / target, audio="drop")
    )


@pytest.mark.parametrize("codec", ["mp2", "ac3"])
def test_audio_whose_packets_state_their_format_may_change(tmp_path, codec):
    source = _changing(tmp_path / "in.ts", codec, rate=32000, layout="mono")
    for target in (tmp_path / "out.mkv", tmp_path / "out.mp4"):
        upscale(source, target)
        with av.open(str(target)) as result:
            found = {(it.sample_rate, it.layout.name) for it in result.decode(audio=0)}
        assert {(48000, "stereo"), (32000, "mono")} <= found


def test_a_single_packet_in_another_format_is_damage(tmp_path):
    source = with_audio(tmp_path / "in.ts", "aac", "mpeg2video", rate=48000)
    content = bytearray(source.read_bytes())
    header = bytes.fromhex("fff14c")
    third = content.index(header, content.index(header, content.index(header) + 1) + 1)
    content[third + 2] = 0x54  # 32000 Hz
    source.write_bytes(content)
    with pytest.raises(VideoDamaged, match="damaged: 1 packets of audio or subtitles cannot be"):
        upscale(source, tmp_path / "out.mkv")


def test_several_descriptions_of_aac_stay_in_quicktime(tmp_path):
    source = with_audio(tmp_path / "in.mov", "aac", rate=48000, layout="stereo", seconds=2)
    source.write_bytes(_with_second_description(source.read_bytes()))
    wanted = (
        r"changes from LC, 48000 Hz, 2 channels to LC, 32000 Hz, 2 channels at \d.*use -o \S+mov"
    )
    refused(source, tmp_path / "out.mkv", wanted)
    upscale(source, tmp_path / "out.mov")
    with av.open(str(tmp_path / "out.mov")) as result:
        assert {it.sample_rate for it in result.decode(audio=0)} == {48000, 32000}


def test_check_finds_a_change_of_format_that_a_copy_lost(tmp_path):
    source, copy = _changing(tmp_path / "in.ts", "aac", rate=32000), tmp_path / "copy.mkv"
    with av.open(str(source)) as before, av.open(str(copy), "w") as after:
        streams = [after.add_stream_from_template(it, opaque=True) for it in before.streams]
        times = RisingTimes()
        for packet in before.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                times.correct(packet, may_repeat=True)
                after.mux_one(packet)
    found = differences(VideoRecord.of(source), VideoRecord.of(copy))
    assert any("audio aac changes from LC, 48000 Hz, 2 ch" in line for line in found), found
    lpcm = _changing(tmp_path / "in.m2ts", "pcm_bluray", rate=96000)
    pcm = with_audio(tmp_path / "pcm.mkv", "pcm_s16le", rate=48000, layout="stereo")
    with pytest.raises(InputDamaged, match=r"in\.m2ts: damaged: audio becomes 96000 Hz, .* at 1\."):
        VideoRecord.of(lpcm, like=VideoRecord.of(pcm))


@pytest.mark.parametrize("layout", ["3.0", "quad", "hexagonal"])
def test_which_loudspeakers_pcm_is_for_is_named_where_it_is_lost(tmp_path, layout):
    """Matroska only counts the channels of PCM."""
    source = with_audio(tmp_path / "in.mov", "pcm_s16le", rate=48000, layout=layout)
    notes = upscale(source, tmp_path / "out.mkv")
    wanted = f"which loudspeakers audio stream 1 (pcm_s16le) is for: {layout}, where players assume"
    assert any(wanted in note and "out.mov keeps it" in note for note in notes)
    before, after = VideoRecord.of(source), VideoRecord.of(tmp_path / "out.mkv")
    assert [f"is for: {layout}" in line for line in lost_layouts(before, after)] == [True]
    assert not any("loudspeakers" in note for note in upscale(source, tmp_path / "out.mov"))
    assert lost_layouts(before, VideoRecord.of(tmp_path / "out.mov")) == []


@pytest.mark.parametrize("layout", ["stereo", "2.1", "5.1"])
def test_loudspeakers_that_players_assume_are_not_lost(tmp_path, layout):
    source = with_audio(tmp_path / "in.mov", "pcm_s16le", rate=48000, layout=layout)
    assert not any("loudspeakers" in note for note in upscale(source, tmp_path / "out.mkv"))


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32be"])
def test_quicktime_may_list_the_channels_one_by_one(tmp_path, codec):
    """PyAV frees the list once more than it exists: every layout that is looked at would do so."""
    source = with_audio(tmp_path / "in.mov", codec, rate=48000, layout="6.1")
    content = bytearray(source.read_bytes())
    tag = content.index(b"chan") + 8
    content[tag : tag + 4] = (125 << 16 | 7).to_bytes(4)  # MPEG_6_1_A, in an order of its own
    source.write_bytes(content)
    for target in (tmp_path / "out.mkv", tmp_path / "out.mov"):
        notes = upscale(source, target)
        assert any("becomes pcm_f32le" in it for it in notes) == (
            target.suffix + codec[4] == ".mkvf"
        )
        with av.open(str(source)) as before, av.open(str(target)) as after:
            assert _channels(after) == _channels(before)
    gc.collect()


def _channels(container):
    return channels_of(container.streams.audio[0].codec_context)[0]


def test_the_end_of_opus_that_mp4_cannot_hide_is_named(tmp_path):
    source = with_audio(tmp_path / "in.webm", "libopus", "libvpx", rate=48000)
    assert not any("not played" in note for note in upscale(source, tmp_path / "out.mkv"))
    notes = upscale(source, tmp_path / "out.mp4")
    wanted = r"left out: that the last [\d.]+ ms of audio stream 1 \(opus\) .*out-2\.mkv keeps it"
    assert any(re.search(wanted, note) for note in notes), notes
    before = VideoRecord.of(source)
    assert heard_ends(before, VideoRecord.of(tmp_path / "out.mkv")) == []
    assert "audio opus" in heard_ends(before, VideoRecord.of(tmp_path / "out.mp4"))[0]


def _with_second_description(content):
    """Give the last half of the chunks of AAC a sample description of their own."""
    at = content.index(b"mp4a") - 4
    entry = content[at : at + int.from_bytes(content[at : at + 4])]
    config = entry.index(bytes.fromhex("0580808005")) + 5
    added = entry[:config] + bytes.fromhex("1290") + entry[config + 2 :]
    changed = bytearray(content)
    changed[at + len(entry) : at + len(entry)] = added
    for name in (b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        box = changed.rindex(name, 0, at) - 4
        size = int.from_bytes(changed[box : box + 4]) + len(added)
        changed[box : box + 4] = size.to_bytes(4)
    changed[at - 4 : at] = (2).to_bytes(4)
    chunks = changed.index(b"stsc", at) + 4
    count = int.from_bytes(changed[chunks + 4 : chunks + 8])
    for number in range(count // 2, count):
        end = chunks + 8 + 12 * (number + 1)
        changed[end - 4 : end] = (2).to_bytes(4)
    return bytes(changed)


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
    assert any("left out: audio stream 2" in note and "it is empty" in note for note in notes)
    assert any("states no length: whether its end is missing is unknown" in note for note in notes)
    assert np.array_equal(heard(tmp_path / "out.mkv")[0], heard(source)[0])


def _with_late_audio(path):
    """A video of 11 seconds with a tone, and another tone in the last of them."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        tones = [output.add_stream(codec, rate=48000, layout="mono") for codec in ("mp2", "ac3")]
        output.start_encoding()
        for number in range(275):
            for tone, begins in zip(tones, (0, 250), strict=True):
                if number >= begins:
                    output.mux(tone.encode(_tone(number, 48000, "mono", tone.format.name)))
            if number % 5 == 0:
                frame = av.VideoFrame.from_ndarray(clips.barcode(number // 5, (64, 48)))
                frame.pts, frame.time_base = number // 5, Fraction(1, 5)
                output.mux(stream.encode(frame))
        for it in (stream, *tones):
            output.mux(it.encode(None))
    return path


def test_audio_that_begins_late_is_named_and_not_missed_by_the_check(tmp_path):
    """It was said to have no packets, and `check` denied the result."""
    source, target = _with_late_audio(tmp_path / "in.ts"), tmp_path / "out.mkv"
    with av.open(str(source)) as container:
        assert any(packet.size for packet in container.demux(audio=1))
    line = "audio stream 2 (ac3): nothing at the start describes it; it is empty, or begins later"
    assert any(note.endswith(f"left out: {line}") for note in upscale(source, target))
    after = VideoRecord.of(target)
    before = VideoRecord.of(source, like=after)
    assert (differences(before, after), before.undescribed) == ([], [line])


# ---------------------------------------------------------------- pauses


def _paused(path, pause, *, after=15):
    """25 frames a second, and a pause in seconds."""
    pts = [number * 3600 + (number >= after) * pause * 90_000 for number in range(20)]
    options = {"video_track_timescale": "90000"} if path.suffix == ".mp4" else {}
    return make(path, frames=20, pts=pts, time_base=Fraction(1, 90_000),
                container_options=options)  # fmt: skip


@pytest.mark.parametrize(("after", "pause"), [(15, 3000), (1, 1500)])
def test_a_pause_that_is_too_long_for_b_frames_is_refused(tmp_path, after, pause):
    """FFmpeg 5 ignored all offsets of the result, and left out frames; the first ones add up."""
    source, target = _paused(tmp_path / "in.mp4", pause, after=after), tmp_path / "out.mp4"
    message = r"pauses are too long for B-frames: .* ahead .*; use -o \S+out\.mkv$"
    encoding = Encoding(preset="fast")
    refused(source, target, message, encoding=encoding)
    upscale(source, tmp_path / "out.mkv", encoding=encoding)
    assert [frame.number for frame in see_frames(tmp_path / "out.mkv")] == [*range(20)]
    for others in ({"bf": "0"}, {"tune": "zerolatency"}):
        upscale(source, target, encoding=replace(encoding, options=others))
        assert [frame.number for frame in see_frames(target)] == [*range(20)]


def test_a_shorter_pause_is_none(tmp_path):
    source, target = _paused(tmp_path / "in.mp4", 2900), tmp_path / "out.mp4"
    upscale(source, target, encoding=Encoding(preset="fast"))
    with av.open(str(target)) as result:
        offsets = [packet.pts - packet.dts for packet in result.demux(video=0) if packet.size]
    assert 2900 * 90_000 < max(offsets) < 2**28


@pytest.mark.parametrize(("hours", "fits"), [(24, False), (1.5, False), (0.75, True)])
def test_frames_hours_apart(tmp_path, hours, fits):
    """At one a day, the container gave up after all of the work."""
    pts = [round(number * hours * 3600_000) for number in range(12)]
    source = make(tmp_path / "in.mkv", pts=pts, time_base=Fraction(1, 1000))
    target, encoding = tmp_path / "out.mp4", Encoding(preset="fast")
    if fits:
        upscale(source, target, encoding=encoding)
    else:
        refused(
            source, target, r"too long for B-frames: .*; use -o \S+out\.mkv$", encoding=encoding
        )
        upscale(source, tmp_path / "out.mkv", encoding=encoding)


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
