"""Read the packets of an open video, and find out whether the input was complete."""

import re
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream
from av.video.stream import VideoStream

from srgan_edge.errors import InputRefused
from srgan_edge.video.clock import LONGEST_GAP_SECONDS, time_of
from srgan_edge.video.frame import Notes
from srgan_edge.video.opening import FileIdentity, file_identity, is_copied
from srgan_edge.video.transport import Examined, examined
from srgan_edge.video.truncation import (
    find_asf_break,
    find_break,
    find_flv_break,
    find_fragment_break,
    find_ogg_break,
    find_second_movie,
    find_wrong_checksum,
    find_y4m_break,
    is_in_fragments,
    missing_bytes,
)

_STATED_DURATION = {"mov", "matroska", "avi", "flv"}  # others estimate it from the file they have
_BY_THEIR_OWN_ACCOUNT = {"ogg": find_ogg_break, "asf": find_asf_break, "flv": find_flv_break}
_WRAPPING = {"mpegts", "mpeg"}
_LATE_PACKETS = 200  # the last packet of a stream comes when the next one begins
_WRAP_SECONDS = Fraction(2**33, 90_000)
_NEGATIVE_TICKS = 2**31
"""From here on a duration is a negative one in 32 bits, as at the end of chained Ogg streams."""

_ROUNDING_SECONDS = Fraction(1, 200)
_MOST_BACK_SECONDS = 1  # of packets of audio, which careless writers put in a wrong order


class Demuxer:
    """Iterates over the packets of all streams, once.

    Damage to the container is recorded in `notes`.
    """

    def __init__(
        self, path: Path, container: InputContainer, video: VideoStream, notes: Notes
    ) -> None:
        self.formats = set(container.format.name.split(","))
        """FFmpeg's names of the container format."""
        self.reached_end = False
        """Reading ended because the input ended, and not because of an error."""
        self.broke_off = ""
        """The error that ended reading before the end of the input; empty if there was none."""
        self._path, self._container, self._video, self._notes = path, container, video, notes
        self._video_packets = 0
        self._frame_bytes = 0  # of the first packet: all are equally large where nothing is coded
        self._end_seconds = Fraction(0)  # of any packet: the last in the file may not end last
        self._text_end_seconds = Fraction(0)  # of subtitles, which may be shown after all else
        self._shown_end_seconds = Fraction(0)  # of the video
        self._decoded_until: int | None = None  # in ticks of the video
        self._hidden_seconds = Fraction(0)  # of the frame before the first that is shown
        self._foreign_packets = 0  # since another recording has begun
        self._gone_back: set[int] = set()  # streams of which it has, by index
        self._last_start: dict[int, int] = {}  # by stream index, in ticks of the stream
        rate, time_base = video.average_rate or video.guessed_rate, video.time_base
        self._period_seconds = 1 / rate if rate else time_base or Fraction(1, 1000)

    def __iter__(self) -> Iterator["Packet[Stream]"]:
        """Yield every packet with content; PyAV marks the end with a packet without.

        Raises:
            InputRefused: The video is encrypted.
        """
        packets = self._container.demux()
        while True:
            try:
                packet = next(packets, None)
            except (av.error.BlockingIOError, IndexError):
                # 64 KiB of a transport stream without a packet, or a stream that begins late.
                packets = self._container.demux()
                continue
            except av.FFmpegError as error:
                silent = isinstance(error, av.error.ExitError)  # by the timeout of a live source
                self.broke_off = "nothing came in time" if silent else str(error.strerror)
                self._notes.damage.add(self.broke_off, self._end_seconds)
                return
            if packet is None:
                self.reached_end = True
                return
            if not packet.size:
                continue
            if packet.has_sidedata("encryption_info"):
                raise InputRefused(f"{self._path} is encrypted; possible: a video without DRM")
            if self._is_of_another_recording(packet):
                self._foreign_packets += 1
                if self._foreign_packets > _LATE_PACKETS:
                    return
                continue
            if self._is_before_its_turn(packet):
                self._notes.overlapping += 1
                continue
            if packet.duration and packet.duration >= _NEGATIVE_TICKS:
                packet.duration = 0  # unknown
            self._count(packet)
            yield packet

    def note_late_streams(self) -> None:
        """Record that streams were found after the start, of which PyAV passes nothing on.

        Only FFmpeg's description of the input counts them, which it writes to its log. No thread of
        FFmpeg may be decoding: it could wait for the log.
        """
        av.logging.set_level(av.logging.INFO)
        try:
            described: str = self._container.dumps_format()  # type: ignore[attr-defined]
        finally:
            av.logging.set_level(None)
        if len(re.findall(r"^  Stream #", described, re.MULTILINE)) > len(self._container.streams):
            self._notes.add_unkept(["a stream that begins later than all others"])

    def examine_file(self, opened: FileIdentity, *, conceal: bool, from_start: bool = True) -> None:
        """Record what is missing or changed in a file that was read to its end.

        A file that was cut off decodes without any error. `opened` is its identity when it was
        opened. With `conceal`, a wrong checksum counts as repaired. Without `from_start`, reading
        began later in the file.

        Raises:
            OSError: The file cannot be read again.
        """
        path, damage = self._path, self._notes.damage
        if file_identity(path) != opened:
            damage.add("the file was changed or removed while it was read")
        if "matroska" in self.formats:
            if broken := find_break(path):
                damage.add(broken)
            elif changed := find_wrong_checksum(path):
                damage.add(changed, repaired=conceal)
        elif self.formats & {"mov", "avi"}:
            end = self._end_of_index()
            missing = max(missing_bytes(path), end - self._container.size)
            if missing > 0:
                damage.add(f"cut off, {missing} bytes are missing")
            elif broken := find_fragment_break(path) or find_second_movie(path, end):
                damage.add(broken)
        elif "mpegts" in self.formats:
            self.note_transport(examined(path, self.pids), conceal=conceal)
        elif broken := self._broken_by_its_own_account():
            damage.add(broken)
        if "avi" in self.formats and from_start:
            listed = sum(entry.size > 0 for entry in self._video.index_entries)
            if self._video_packets < listed:
                damage.add(f"{self._video_packets} of {listed} frames can be found")
        if "mov" in self.formats and from_start:
            self._note_hidden_start()
        if self.formats & _STATED_DURATION and self._container.duration:
            self.compare_duration(self._container.duration, from_start=from_start)

    def _note_hidden_start(self) -> None:
        """Record that FFmpeg hides a frame of which an edit list shows the end."""
        stated_seconds = (self._video.duration or 0) * (self._video.time_base or Fraction(0))
        missing_seconds = stated_seconds - self._shown_end_seconds
        if self._period_seconds < missing_seconds <= self._hidden_seconds:
            self._notes.early_seconds = missing_seconds

    def compare_duration(self, stated_microseconds: int, *, from_start: bool = True) -> None:
        """Record that the video ends well before its stated duration.

        The end of a subtitle, which may have begun long before, does not show that all else is
        there. MPEG transport and program streams state no duration, so a cut cannot be noticed.
        """
        stated_seconds = Fraction(stated_microseconds, 1_000_000)
        end_seconds = self._end_seconds + self._notes.early_seconds
        streams = self._container.streams
        if any(it.type == "subtitle" or it.discard == Discard.all for it in streams):
            ends = [
                self._stated_end_seconds(stream)
                for stream in streams
                if stream is self._video or (stream.type == "audio" and is_copied(stream))
            ]
            known = [end for end in ends if end is not None]
            if len(known) == len(ends):
                stated_seconds = min(stated_seconds, max(known))
            elif not from_start:
                return
            else:
                end_seconds = max(end_seconds, self._text_end_seconds)
        slack_seconds = max(2 * self._period_seconds, Fraction(1, 10))
        if end_seconds < stated_seconds - slack_seconds:
            end, whole = float(self._end_seconds), float(stated_seconds)
            self._notes.damage.add(f"ends at {end:.2f} of {whole:.2f} s")

    def _stated_end_seconds(self, stream: Stream) -> Fraction | None:
        """Return the end that the file states for a stream of its own."""
        if "matroska" in self.formats:  # in a tag; FFmpeg's duration is that of the file
            tags = [value for name, value in stream.metadata.items() if name[:8] == "DURATION"]
            return seconds_of_tag(tags[0]) if tags else None
        if not stream.duration or stream.time_base is None:
            return None
        return ((stream.start_time or 0) + stream.duration) * stream.time_base

    @property
    def pids(self) -> set[int]:
        """The numbers, in a transport stream, of the streams that are used."""
        used = {self._video.index, *(s.index for s in self._container.streams if is_copied(s))}
        return {stream.id for stream in self._container.streams if stream.index in used}

    def note_transport(self, found: Examined, *, conceal: bool) -> None:
        """Record missing packets; what is missing behind the last one leaves no trace."""
        damage = self._notes.damage
        if found.bytes_missing:
            damage.add(f"cut off, {found.bytes_missing} bytes of the last packet are missing")
        for hole in found.holes:
            what = "packets of the transport stream are missing"
            damage.add(what, hole.seconds, repaired=conceal)

    def _broken_by_its_own_account(self) -> str | None:
        """Describe what an Ogg, ASF, FLV or Y4M file lacks of what it states."""
        for name, find in _BY_THEIR_OWN_ACCOUNT.items():
            if name in self.formats:
                return find(self._path)
        if "yuv4mpegpipe" in self.formats and self._frame_bytes:
            return find_y4m_break(self._path, self._frame_bytes)
        return None

    def _count(self, packet: "Packet[Stream]") -> None:
        self._notes.doubtful += packet.is_corrupt
        self._frame_bytes = self._frame_bytes or packet.size
        is_video = packet.stream_index == self._video.index
        self._video_packets += is_video
        if is_video and "mov" in self.formats:
            self._note_hole(packet)
        start = time_of(packet)
        if start is not None and packet.time_base:
            before = self._last_start.get(packet.stream_index, start)
            self._last_start[packet.stream_index] = start
            duration = packet.duration or max(0, start - before)  # FLV states none
            end_seconds = (start + duration) * packet.time_base
            if packet.stream.type == "subtitle":
                self._text_end_seconds = max(self._text_end_seconds, end_seconds)
            else:
                self._end_seconds = max(self._end_seconds, end_seconds)
            if is_video and not packet.is_discard:
                self._shown_end_seconds = max(self._shown_end_seconds, end_seconds)
            elif is_video and end_seconds == 0:
                self._hidden_seconds = duration * packet.time_base

    def _note_hole(self, packet: "Packet[Stream]") -> None:
        """Record that fragments of MP4 are missing, which a download may have passed over.

        Each states the time at which it is decoded. Without fragments, packets follow one another.
        """
        if packet.dts is None or packet.pts is None or not packet.time_base:
            return
        until, self._decoded_until = self._decoded_until, packet.dts + (packet.duration or 0)
        hole_ticks = 0 if until is None else packet.dts - until
        if hole_ticks * packet.time_base > LONGEST_GAP_SECONDS and self._in_fragments:
            shown = (packet.pts - hole_ticks, packet.pts)
            begins, ends = (float(ticks * packet.time_base) for ticks in shown)
            self._notes.add_gap(begins, ends)

    @cached_property
    def _in_fragments(self) -> bool:
        """MP4 is in fragments, as all of it is that comes through a pipe."""
        with suppress(OSError):
            return not self._path.is_file() or is_in_fragments(self._path)
        return False

    def _is_of_another_recording(self, packet: "Packet[Stream]") -> bool:
        """Check whether time went back.

        FFmpeg may take that for a clock of 33 bits, which starts over after 26.5 hours, and adds
        these. Frames are not looked at: their clock does that, once they are decoded.
        """
        step_seconds = self._step_seconds(packet)
        if step_seconds is None or packet.stream_index in self._gone_back:
            return bool(self._foreign_packets)
        # Edit lists of MP4 may play a part of the audio again.
        is_ordered = packet.stream.type == "audio" and "mov" not in self.formats
        goes_back = is_ordered and step_seconds < -_MOST_BACK_SECONDS
        wraps = bool(self.formats & _WRAPPING) and step_seconds >= _WRAP_SECONDS / 2
        if not goes_back and not wraps:
            return False
        self._gone_back.add(packet.stream_index)
        if not self._foreign_packets:
            before_seconds = self._last_start[packet.stream_index] * packet.time_base
            now = float(before_seconds + step_seconds - (_WRAP_SECONDS if wraps else 0))
            self.broke_off = f"time goes back to {now:.2f} s"
            self._notes.damage.add(self.broke_off, before_seconds)
        return True

    def _is_before_its_turn(self, packet: "Packet[Stream]") -> bool:
        """Check for audio of a time that a recording before this one has; a little is rounding."""
        step_seconds = self._step_seconds(packet)
        is_audio = packet.stream.type == "audio"
        if not is_audio or self.formats.isdisjoint(_WRAPPING) or step_seconds is None:
            return False
        most_back = max((packet.duration or 0) * packet.time_base / 2, _ROUNDING_SECONDS)
        return step_seconds < -most_back

    def _step_seconds(self, packet: "Packet[Stream]") -> Fraction | None:
        """Return how much later a packet starts than the one before it in its stream."""
        start, before = time_of(packet), self._last_start.get(packet.stream_index)
        return None if start is None or before is None else (start - before) * packet.time_base

    def _end_of_index(self) -> int:
        """Return where the last sample in the index ends, in bytes; exact to the last frame."""
        indices = (stream.index_entries for stream in self._container.streams)
        return max((entry.pos + entry.size for index in indices for entry in index), default=0)


def seconds_of_tag(text: str) -> Fraction | None:
    """Return what Matroska's tag DURATION states, such as 00:01:30.040000000, in seconds."""
    found = re.fullmatch(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d{1,9})?)", text, re.ASCII)
    if found is None:
        return None
    hours, minutes, seconds = found.groups()
    return (int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)
