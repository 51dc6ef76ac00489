"""MPEG-4 Part 2, as Xvid and DivX write it: which frames are not coded (ISO/IEC 14496-2, 6.2).

Such a frame says only that the one before is still shown; a decoder returns nothing for it.
"""

_LAYER, _FRAME, _USER_DATA = range(0x20, 0x30), b"\0\0\1\xb6", b"\0\0\1\xb2"
_VBV_BITS = 79
_MOST_BYTES = 15
"""Most bytes of such a frame behind its start code: a longer one is a coded one with damage."""
_RECTANGULAR = 0


class _Bits:
    """Reads bits from the first on; behind the last they are zero."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def take(self, count: int) -> int:
        self._left -= count
        rest = self._value >> self._left if self._left >= 0 else 0
        return rest & ((1 << count) - 1)


def time_bits(headers: bytes) -> int | None:
    """Return how many bits the time of a frame has, by the headers of the stream.

    None: it has none that say so, or its packets hold several frames each, as in AVI by DivX, and
    one that is not coded stands for a frame of the packet before.
    """
    starts = [at for at in range(len(headers) - 4) if headers[at : at + 3] == b"\0\0\1"]
    layer = next((at for at in starts if headers[at + 3] in _LAYER), None)
    said = [it.partition(b"\0\0\1")[0].rstrip(b"\0") for it in headers.split(_USER_DATA)[1:]]
    if layer is None or any(it.startswith(b"DivX") and it.endswith(b"p") for it in said):
        return None
    bits = _Bits(headers[layer + 4 : layer + 44])
    bits.take(1 + 8)
    if bits.take(1):  # is_object_layer_identifier
        bits.take(4 + 3)
    if bits.take(4) == 15:  # aspect_ratio_info: extended_PAR
        bits.take(8 + 8)
    if bits.take(1):  # vol_control_parameters
        bits.take(2 + 1)
        if bits.take(1):
            bits.take(_VBV_BITS)
    if bits.take(2) != _RECTANGULAR:
        return None
    bits.take(1)
    resolution = bits.take(16)  # ticks of a second
    return max(1, (resolution - 1).bit_length()) if resolution else None


def is_not_coded(packet: bytes, bits_of_time: int) -> bool:
    """Return True for a packet whose only frame is not coded.

    Args:
        bits_of_time: `time_bits` of the stream.
    """
    _, _, frame = packet.partition(_FRAME)
    if not 0 < len(frame) <= _MOST_BYTES or _FRAME in frame:
        return False
    bits = _Bits(frame)
    bits.take(2)  # vop_coding_type
    if not any(bits.take(1) == 0 for _ in range(64)):  # modulo_time_base: seconds, as ones
        return False
    bits.take(1 + bits_of_time)
    return bits.take(2) == 0b10  # a marker, and vop_coded
