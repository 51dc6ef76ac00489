"""Check that a video is another one upscaled: same frame times, audio, subtitles and metadata.

Everything that has to agree is read from each file into a `VideoRecord`, and the two records are
compared. Pixels are not compared: they are up to the network. Nothing is written.
"""

from collections.abc import Collection, Iterator

import numpy as np

from srgan_edge.errors import printable
from srgan_edge.transcode.record import PacketRecord, Timeline, VideoRecord
from srgan_edge.video.channels import unstated

_NOT_MISSED = {"handler_name", "vendor_id", "variant_bitrate"}
"""Tags that programs write for themselves."""

_CHAPTER_TICK_SECONDS = 2e-3
"""Containers store times of chapters in milliseconds."""

_NO_LANGUAGE = ("language", "und")
"""The tag of MP4 for a language that nobody has stated; Matroska has none for it."""


def differences(
    before: VideoRecord, after: VideoRecord, size: tuple[int, int] | None = None
) -> list[str]:
    """Describe everything in `before` that differs in `after`; empty if nothing does.

    `size` is the width and height that `after` should have; None: at least those of `before`.

    Times may differ by one tick of the container of `after`. Matroska has no negative times, so in
    it all times may be later by as much as the first one was before zero.
    """
    return [
        *_frame_differences(before, after),
        *_packet_differences(before, after),
        *_size_difference(before, after, size),
        *_stream_differences(before, after),
    ]


def _frame_differences(before: VideoRecord, after: VideoRecord) -> Iterator[str]:
    if len(before.frames) != len(after.frames):
        yield f"{len(after.frames)} frames instead of {len(before.frames)}"
        return
    tick = float(after.frames.time_base)
    late = [*_late("frame", before.frames, after.frames, _shift_seconds(before, after), tick)]
    yield from late
    # MP4 stores decoding times; with B-frames, it does not contain the duration of a frame.
    if _is_matroska(after) and not late:
        wrong = before.frames.shown_seconds() - after.frames.shown_seconds()
        for number in np.flatnonzero(np.abs(wrong) > tick + 1e-9)[:1]:
            yield f"frame {number} is shown {-wrong[number] * 1000:+.1f} ms longer"


def _packet_differences(before: VideoRecord, after: VideoRecord) -> Iterator[str]:
    if len(before.packets) != len(after.packets):
        counts = f"{len(after.packets)} instead of {len(before.packets)}"
        yield f"{counts} streams of audio and subtitles"
        return
    shift = _shift_seconds(before, after)
    for ours, theirs in zip(before.packets.values(), after.packets.values(), strict=True):
        if ours.format.change and not theirs.format.change:
            yield f"{ours.name} changes {ours.format.change}, and stays the same in the result"
        if len(ours.digests) != len(theirs.digests) and not ours.is_pcm:
            ours, theirs = ours.shown(), theirs.shown()  # one of the two has no edit list
        ours, theirs = ours.with_text(), theirs.with_text()
        if ours.has_samples_of(theirs):
            yield from _late_samples(ours, theirs, shift)
        elif len(ours.digests) != len(theirs.digests):
            yield f"{ours.name}: {len(theirs.digests)} packets instead of {len(ours.digests)}"
        elif ours.digests != theirs.digests:
            yield f"{ours.name}: the content of packets differs"
        else:
            tick = float(theirs.timeline.time_base)
            skip = ours.unplaceable
            yield from _late(ours.name, ours.timeline, theirs.timeline, shift, tick, skip)


def _late_samples(ours: PacketRecord, theirs: PacketRecord, shift: float) -> Iterator[str]:
    if not ours.sizes:
        return
    tick = max(float(record.timeline.time_base) for record in (ours, theirs))
    positions = np.cumsum(np.asarray(ours.sizes, np.float64)) - np.asarray(ours.sizes)
    late = theirs.starts_at(positions) - ours.timeline.starts_seconds() - shift
    late[list(ours.unplaceable)] = 0
    for number in np.flatnonzero(np.abs(late) > tick + 1e-9)[:1]:
        yield f"{ours.name} {number} is {late[number] * 1000:+.1f} ms late"


def lost_tags(before: VideoRecord, after: VideoRecord) -> list[str]:
    """Return lines for the tags, languages and roles of streams that `after` lacks.

    Containers rename tags and reformat times: a tag is kept if its name or its value is there.
    Where all streams of a type are left out, as timecodes in Matroska, their tags are with them.
    """
    lost = _missing(before.tags, [after.tags])
    kinds, found = {kind for kind, _ in after.stream_tags}, [tags for _, tags in after.stream_tags]
    for tags in (tags for kind, tags in before.stream_tags if kind in kinds):
        missing = _missing(tags, found)
        lost += [name for name in missing if name != "creation_time"]  # that of the file is kept
    names = ", ".join(dict.fromkeys(printable(name) for name in lost))
    lines = [f"the tags {names}"] if names else []
    for ours, theirs in zip(before.packets.values(), after.packets.values(), strict=False):
        if roles := ", ".join(printable(role) for role in sorted(ours.roles - theirs.roles)):
            lines.append(f"{roles} of {ours.name}")
    return lines


def lost_layouts(before: VideoRecord, after: VideoRecord) -> list[str]:
    """Return a line for each stream of PCM of which `after` does not state the channel layout."""
    return [
        f"which loudspeakers {ours.name} is for: {lost}"
        for ours, theirs in zip(before.packets.values(), after.packets.values(), strict=False)
        if ours.is_pcm and ours.channels != theirs.channels and (lost := unstated(*ours.channels))
    ]


def heard_ends(before: VideoRecord, after: VideoRecord) -> list[str]:
    """Return a line for each stream of audio of which `after` plays more of the end."""
    return [
        f"that the last {float(more) * 1000:.1f} ms of {ours.name} are not played"
        for ours, theirs in zip(before.packets.values(), after.packets.values(), strict=False)
        if (more := ours.cut_seconds - theirs.cut_seconds) > 0
    ]


def moved_chapters(before: VideoRecord, after: VideoRecord) -> list[str]:
    """Return a line if chapters begin or end elsewhere, as in MP4 after gaps or its end."""
    most = _CHAPTER_TICK_SECONDS + abs(_shift_seconds(before, after))
    times = zip(before.chapter_seconds, after.chapter_seconds, strict=False)
    moved = [
        f"the {what} of chapter {number} at {wanted:.3f} s; it is at {found:.3f} s"
        for number, (ours, theirs) in enumerate(times, 1)
        for what, wanted, found in zip(("start", "end"), ours, theirs, strict=True)
        if abs(found - wanted) > most
    ]
    others = "; other times of chapters have changed, too" if len(moved) > 1 else ""
    return [moved[0] + others] if moved else []


def _missing(wanted: dict[str, str], found: list[dict[str, str]]) -> list[str]:
    names = {name.lower() for tags in found for name in tags}
    values = {value for tags in found for value in tags.values()}
    return [
        name
        for name, value in wanted.items()
        if value
        and name.lower() not in names | _NOT_MISSED
        and value not in values
        and (name.lower(), value) != _NO_LANGUAGE
    ]


def _size_difference(
    before: VideoRecord, after: VideoRecord, size: tuple[int, int] | None
) -> Iterator[str]:
    if size is not None and size != (after.info.width, after.info.height):
        yield f"{_size(after)} pixels instead of {size[0]}x{size[1]}"
    if size is not None:
        return
    if after.info.width < before.info.width or after.info.height < before.info.height:
        yield f"{_size(after)} pixels, fewer than {_size(before)}"


def _stream_differences(before: VideoRecord, after: VideoRecord) -> Iterator[str]:
    aspects = [record.info.sample_aspect_ratio or 1 for record in (before, after)]
    if aspects[0] != aspects[1]:
        yield f"pixel aspect ratio {aspects[1]} instead of {aspects[0]}"
    matrix = before.info.display_matrix_at((after.info.width, after.info.height))
    if matrix != after.info.display_matrix:
        yield "rotated or mirrored differently"
    if before.chapters != after.chapters:
        counts = f"{len(after.chapters)} chapters instead of {len(before.chapters)}"
        yield f"{counts}, or other titles"


def _late(
    what: str,
    before: Timeline,
    after: Timeline,
    shift_seconds: float,
    tick_seconds: float,
    skip: Collection[int] = (),
) -> Iterator[str]:
    late = after.starts_seconds() - before.starts_seconds() - shift_seconds
    late[list(skip)] = 0
    for number in np.flatnonzero(np.abs(late) > tick_seconds + 1e-9)[:1]:
        yield f"{what} {number} is {late[number] * 1000:+.1f} ms late"


def _shift_seconds(before: VideoRecord, after: VideoRecord) -> float:
    """Return how much later `after` may be; Matroska often moves what starts before zero."""
    everything = [before.frames, *(record.timeline for record in before.packets.values())]
    played = [before.frames, *(record.shown().timeline for record in before.packets.values())]
    shifts = [max(0.0, -_earliest_seconds(timelines)) for timelines in (everything, played)]
    if not _is_matroska(after) or not len(after.frames) or not len(before.frames):
        return 0.0
    found = after.frames.starts_seconds()[0] - before.frames.starts_seconds()[0]
    return min((0.0, *shifts), key=lambda shift: abs(shift - float(found)))


def _earliest_seconds(timelines: list[Timeline]) -> float:
    return float(min((t.starts_seconds().min() for t in timelines if len(t)), default=0.0))


def _size(record: VideoRecord) -> str:
    return f"{record.info.width}x{record.info.height}"


def _is_matroska(record: VideoRecord) -> bool:
    return "matroska" in record.format
