"""What the processor that runs the tests can do."""

from srgan_edge.machine import cpu_flags

_FLAGS = cpu_flags()
HAS_VNNI = not _FLAGS or any("vnni" in flag for flag in _FLAGS)
"""Products of bytes are added up in 32 bits. AVX2 alone adds two in 16 bits, which end at 32767."""
