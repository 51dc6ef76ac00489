"""What a container has to say of AAC: AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1)."""

_SAMPLE_RATES = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
)
_LOW_COMPLEXITY = 2  # the audio object type


def low_complexity_config(sample_rate: int, channels: int) -> bytes | None:
    """Of AAC-LC, in two bytes; None: of such a rate or so many channels it takes more."""
    if sample_rate not in _SAMPLE_RATES or channels not in (1, 2, 3, 4, 5, 6, 8):
        return None
    frequency_index = _SAMPLE_RATES.index(sample_rate)
    channel_configuration = 7 if channels == 8 else channels
    config = _LOW_COMPLEXITY << 11 | frequency_index << 7 | channel_configuration << 3
    return config.to_bytes(2, "big")
