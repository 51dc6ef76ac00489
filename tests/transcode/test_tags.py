"""Tags are kept byte for byte where the container can hold them, and named where it cannot."""

import av
import pytest
from clips import make
from transcoding import upscale

PHONE = {
    "com.apple.quicktime.make": "Apple",
    "com.apple.quicktime.model": "iPhone 15",
    "com.apple.quicktime.creationdate": "2024-05-01T10:00:00+0200",
    "com.apple.quicktime.location.ISO6709": "+48.8577+002.295+035/",
    "title": "Eiffel",
    "creation_time": "2024-05-01T08:00:00.000000Z",
}


def tags(path):
    with av.open(str(path), metadata_errors="surrogateescape") as container:
        return {key.lower(): value for key, value in container.metadata.items()}


@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv"])
def test_tags_of_phones_are_kept(tmp_path, suffix):
    source = make(
        tmp_path / "in.mov",
        frames=2,
        metadata=PHONE,
        container_options={"movflags": "use_metadata_tags"},
    )
    assert PHONE.items() <= {k: tags(source)[k.lower()] for k in PHONE}.items()
    assert not any("tags" in note for note in upscale(source, tmp_path / f"out{suffix}"))
    assert tags(source).items() - tags(tmp_path / f"out{suffix}").items() <= {
        (name, tags(source)[name])
        for name in ("major_brand", "minor_version", "compatible_brands", "encoder")
    }


def test_tags_without_names_of_phones_stay_those_of_quicktime(tmp_path):
    source = make(tmp_path / "in.mov", frames=2, metadata={"title": "Eiffel", "artist": "me"})
    upscale(source, tmp_path / "out.mov")
    assert b"\xa9nam" in (tmp_path / "out.mov").read_bytes()
    assert tags(tmp_path / "out.mov")["title"] == "Eiffel"


def test_tags_that_mp4_cannot_hold_are_named(tmp_path):
    source = make(tmp_path / "in.mkv", frames=2, metadata={"DIRECTOR": "me", "title": "x"})
    [line] = [note for note in upscale(source, tmp_path / "out.mp4") if "left out" in note]
    assert line.endswith("left out: the tags DIRECTOR")
    assert tags(tmp_path / "out.mp4")["title"] == "x"


@pytest.mark.parametrize(
    "title",
    [b"\x83e\x83X\x83g", b"\xce\xe1\xf0\xe0\xe1", b"caf\xe9"],
    ids=["sjis", "cp1251", "latin1"],
)
@pytest.mark.parametrize("suffixes", [(".mov", ".mov"), (".avi", ".mkv"), (".mkv", ".mkv")])
def test_tags_that_are_not_utf8_keep_their_bytes(tmp_path, title, suffixes):
    source = make(
        tmp_path / f"in{suffixes[0]}",
        frames=2,
        options={"bf": "0"},
        metadata={"title": "T" * len(title)},
    )
    source.write_bytes(source.read_bytes().replace(b"T" * len(title), title))
    upscale(source, tmp_path / f"out{suffixes[1]}")
    written = (tmp_path / f"out{suffixes[1]}").read_bytes()
    assert title in written
    assert "\ufffd".encode() not in written


def test_chapters_and_fonts_with_names_that_are_not_utf8(tmp_path):
    source = make(
        tmp_path / "in.mkv",
        frames=2,
        chapters=True,
        attachment=("FFFF.ttf", "application/x-truetype-font", b"glyphs"),
    )
    content = source.read_bytes().replace(b"part 0", b"caf\xe9 0").replace(b"FFFF", b"caf\xe9")
    source.write_bytes(content)
    upscale(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv"), metadata_errors="surrogateescape") as result:
        assert (
            result.chapters()[0]["metadata"]["title"].encode(errors="surrogateescape")
            == b"caf\xe9 0"
        )
        assert [s.data for s in result.streams if s.type == "attachment"] == [b"glyphs"]


def test_sizes_of_the_old_streams_are_not_said_of_the_new_ones(tmp_path):
    """mkvmerge appends the language of a tag to its name."""
    old = {"BPS-eng": "4000", "NUMBER_OF_BYTES-eng": "9", "_STATISTICS_TAGS-eng": "BPS", "BPS": "4"}
    source = make(tmp_path / "in.mkv", frames=2, metadata={**old, "ARTIST-eng": "me"})
    assert old.keys() <= {key.replace("-ENG", "-eng") for key in read_tags(source)}
    notes = upscale(source, tmp_path / "out.mkv")
    assert {key.upper() for key in read_tags(tmp_path / "out.mkv")} == {"ARTIST-ENG", "ENCODER"}
    assert not any("left out" in note for note in notes)


def test_no_language_is_none_to_lose(tmp_path):
    """MP4 states `und` where nobody stated a language; Matroska has no tag for that."""
    source = make(tmp_path / "in.mp4", frames=2)
    with av.open(str(source)) as container:
        assert container.streams.video[0].metadata["language"] == "und"
    assert not any("left out" in note for note in upscale(source, tmp_path / "out.mkv"))


def test_the_language_of_the_track_of_chapters_is_none_to_lose(tmp_path):
    """MP4 has them as a track of text, and FFmpeg calls it English; Matroska has a list."""
    source = make(tmp_path / "in.mp4", frames=10, chapters=True)
    with av.open(str(source)) as container:
        assert [s.metadata["language"] for s in container.streams] == ["und", "eng"]
    assert not any("left out" in note for note in upscale(source, tmp_path / "out.mkv"))
    with av.open(str(tmp_path / "out.mkv")) as result:
        assert [it["metadata"]["title"] for it in result.chapters()] == ["part 0", "part 1"]


def test_the_language_of_a_timecode_is_left_out_with_it(tmp_path):
    """It was named beside the track, as if another one had lost its language."""
    source = make(tmp_path / "in.mp4", frames=2, metadata={"timecode": "01:00:00:00"})
    with av.open(str(source)) as container:
        assert [s.metadata["language"] for s in container.streams] == ["und", "eng"]
    lost = [note for note in upscale(source, tmp_path / "out.mkv") if "left out" in note]
    assert [line.rpartition("left out: ")[2] for line in lost] == ["data stream 1 (timecode)"]
    assert not any("left out" in note for note in upscale(source, tmp_path / "out.mp4"))


def test_a_time_of_creation_that_no_container_can_hold_is_named(tmp_path):
    times = {"out.mkv": "Thu Nov 3 2011", "kept.mkv": "2024-05-01T08:00:00.000000Z"}
    options, notes = {"bf": "0"}, []
    for name, time in times.items():
        made = {"creation_time": time}
        source = make(tmp_path / "in.flv", frames=2, metadata=made, options=options)
        notes += [note for note in upscale(source, tmp_path / name) if "left out" in note]
    assert [note.partition(": ")[2] for note in notes] == ["left out: the tags creation_time"]


def two_tracks(path):
    """A video with a track of German, and one of comments in English."""
    made = make(path.with_name("made.mkv"), frames=2, audio=("deu", "eng"))
    with av.open(str(made)) as source, av.open(str(path), "w") as copy:
        streams = {it.index: copy.add_stream_from_template(it) for it in source.streams}
        for it in source.streams:
            streams[it.index].metadata["language"] = it.language or "und"
        second = streams[2]
        second.metadata["title"] = "Kommentar"
        second.disposition = av.stream.Disposition.comment | av.stream.Disposition.forced
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return path


@pytest.mark.parametrize("suffixes", [(".mkv", ".mkv"), (".mkv", ".mp4"), (".mp4", ".mp4")])
def test_names_languages_and_roles_of_tracks_are_kept(tmp_path, suffixes):
    source = two_tracks(tmp_path / f"in{suffixes[0]}")
    notes = upscale(source, tmp_path / f"out{suffixes[1]}")
    assert not any("left out" in note for note in notes)
    with av.open(str(tmp_path / f"out{suffixes[1]}")) as container:
        first, second = container.streams.audio
        assert first.language == "deu"
        assert second.metadata.get("title", second.metadata.get("name")) == "Kommentar"
        wanted = av.stream.Disposition.comment | av.stream.Disposition.forced
        assert second.disposition & wanted == wanted


def test_languages_and_roles_that_quicktime_cannot_hold_are_named(tmp_path):
    source = two_tracks(tmp_path / "in.mkv")
    notes = [it for it in upscale(source, tmp_path / "out.mov") if "left out" in it]
    assert [it.partition("left out: ")[2] for it in notes] == [
        "language deu of audio aac", "comment, forced of audio aac",
    ]  # fmt: skip


def read_tags(path):
    with av.open(str(path)) as container:
        return container.metadata


@pytest.mark.parametrize(
    ("name", "lost"), [("out.mkv", []), ("out.mp4", ["stereo 3D arrangement", "stereo_mode"])]
)
def test_a_stereo_arrangement_is_named_where_it_is_lost(tmp_path, name, lost):
    """Matroska's StereoMode is a tag of the stream, which FFmpeg also states of each frame."""
    made, source = make(tmp_path / "made.mkv", frames=2), tmp_path / "in.mkv"
    with av.open(str(made)) as container, av.open(str(source), "w") as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        stream.metadata["stereo_mode"] = "left_right"
        for packet in container.demux():
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    notes = [it for it in upscale(source, tmp_path / name) if "left out" in it]
    assert [it.split()[-1] for it in notes] == [it.split()[-1] for it in lost]
    with av.open(str(tmp_path / name)) as result:
        assert ("stereo_mode" in result.streams.video[0].metadata) == (not lost)
