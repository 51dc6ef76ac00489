"""The two ways in which containers store AAC: described once, or with a header in each packet."""

from av.audio.codeccontext import AudioCodecContext
from av.stream import Stream

# AAC, ISO/IEC 14496-3: 1.6.2.1 (AudioSpecificConfig, once per stream) and 1.A.2.2 (ADTS, a header
# before each frame).
_SAMPLE_RATES = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
)
_ADTS_SYNC, _ADTS_SYNC_BITS = 0xFFF0, 0xFFF6  # twelve bits that are set, and the layer, which is 0
_LOW_COMPLEXITY = 2  # audio object type


def describe_aac(stream: Stream, added: Stream) -> None:
    """Put the AAC description of each broadcast packet into the header: a pipe cannot seek back."""
    context = stream.codec_context
    if (
        isinstance(context, AudioCodecContext)
        and (context.name, context.profile) == ("aac", "LC")
        and not context.extradata
    ):
        config = low_complexity_config(context.sample_rate, context.layout.nb_channels)
        added.codec_context.extradata = config


def low_complexity_config(sample_rate: int, channels: int) -> bytes | None:
    """Return the AudioSpecificConfig of AAC-LC in two bytes; None if the format takes more."""
    if sample_rate not in _SAMPLE_RATES or channels not in (1, 2, 3, 4, 5, 6, 8):
        return None
    frequency_index = _SAMPLE_RATES.index(sample_rate)
    channel_configuration = 7 if channels == 8 else channels
    config = _LOW_COMPLEXITY << 11 | frequency_index << 7 | channel_configuration << 3
    return config.to_bytes(2, "big")


def without_adts_header(frame: bytes) -> bytes:
    """Return an AAC frame without its ADTS header of seven bytes, or nine with a checksum."""
    if int.from_bytes(frame[:2], "big") & _ADTS_SYNC_BITS != _ADTS_SYNC:
        return frame
    return frame[7 if frame[1] & 1 else 9 :]
