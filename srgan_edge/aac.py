"""AAC as containers have it: described once for all frames, or by a header before each (ADTS).

ISO/IEC 14496-3, 1.6.2.1 (AudioSpecificConfig) and 1.A.2.2 (ADTS).
"""

_SAMPLE_RATES = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
)
_ADTS_SYNC, _ADTS_SYNC_BITS = 0xFFF0, 0xFFF6  # twelve that are set, and the layer, which is 0
_LOW_COMPLEXITY = 2  # the audio object type


def low_complexity_config(sample_rate: int, channels: int) -> bytes | None:
    """AudioSpecificConfig of AAC-LC, in two bytes; None: such a rate or number takes more."""
    if sample_rate not in _SAMPLE_RATES or channels not in (1, 2, 3, 4, 5, 6, 8):
        return None
    frequency_index = _SAMPLE_RATES.index(sample_rate)
    channel_configuration = 7 if channels == 8 else channels
    config = _LOW_COMPLEXITY << 11 | frequency_index << 7 | channel_configuration << 3
    return config.to_bytes(2, "big")


def without_adts_header(frame: bytes) -> bytes:
    """What other containers have of a frame: without seven bytes, or nine with a checksum."""
    if int.from_bytes(frame[:2], "big") & _ADTS_SYNC_BITS != _ADTS_SYNC:
        return frame
    return frame[7 if frame[1] & 1 else 9 :]
