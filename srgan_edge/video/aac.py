"""The two ways in which containers store AAC: described once, or with a header in each packet."""

from av.audio.codeccontext import AudioCodecContext
from av.stream import Stream

from srgan_edge.video.channels import channels_in_words, channels_of

# AAC, ISO/IEC 14496-3: 1.6.2.1 (AudioSpecificConfig, once per stream) and 1.A.2.2 (ADTS, a header
# before each frame).
_SAMPLE_RATES = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
)
_ADTS_SYNC, _ADTS_SYNC_BITS = 0xFFF0, 0xFFF6  # twelve bits that are set, and the layer, which is 0
_LOW_COMPLEXITY = 2  # audio object type
_OBJECTS = {1: "Main", _LOW_COMPLEXITY: "LC", 3: "SSR", 4: "LTP", 5: "HE", 29: "HE v2"}
_CHANNELS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 8}  # by their configuration


def describe_aac(stream: Stream, added: Stream) -> None:
    """Put the AAC description of each broadcast packet into the header: a pipe cannot seek back."""
    context = stream.codec_context
    if (
        isinstance(context, AudioCodecContext)
        and (context.name, context.profile) == ("aac", "LC")
        and not context.extradata
    ):
        channels, _ = channels_of(context)
        config = low_complexity_config(context.sample_rate, channels)
        added.codec_context.extradata = config


def low_complexity_config(sample_rate: int, channels: int) -> bytes | None:
    """Return the AudioSpecificConfig of AAC-LC in two bytes; None if the format takes more."""
    if sample_rate not in _SAMPLE_RATES or channels not in (1, 2, 3, 4, 5, 6, 8):
        return None
    frequency_index = _SAMPLE_RATES.index(sample_rate)
    channel_configuration = 7 if channels == 8 else channels
    config = _LOW_COMPLEXITY << 11 | frequency_index << 7 | channel_configuration << 3
    return config.to_bytes(2, "big")


def adts_format(frame: bytes) -> str | None:
    """Return what the ADTS header of a frame states, in words; None if it has none."""
    if not _has_adts_header(frame):
        return None
    header = int.from_bytes(frame[:4], "big")
    return _in_words((header >> 14 & 3) + 1, header >> 10 & 15, header >> 6 & 7)


def config_format(config: bytes) -> str:
    """Return what an AudioSpecificConfig states, in words."""
    start = int.from_bytes(config[:2], "big")
    return _in_words(start >> 11, start >> 7 & 15, start >> 3 & 15)


def without_adts_header(frame: bytes) -> bytes:
    """Return an AAC frame without its ADTS header of seven bytes, or nine with a checksum."""
    if not _has_adts_header(frame):
        return frame
    return frame[7 if frame[1] & 1 else 9 :]


def _in_words(audio_object: int, frequency_index: int, configuration: int) -> str:
    kind = _OBJECTS.get(audio_object, f"audio object {audio_object}")
    known = frequency_index < len(_SAMPLE_RATES)
    rate = f"{_SAMPLE_RATES[frequency_index]} Hz" if known else "another rate"
    if configuration not in _CHANNELS:
        return f"{kind}, {rate}, other channels"
    return f"{kind}, {rate}, {channels_in_words(_CHANNELS[configuration])}"


def _has_adts_header(frame: bytes) -> bool:
    return len(frame) > 6 and int.from_bytes(frame[:2], "big") & _ADTS_SYNC_BITS == _ADTS_SYNC
