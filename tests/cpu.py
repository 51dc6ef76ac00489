"""What the processor that runs the tests can do."""

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
HAS_VNNI = not _CPUINFO.exists() or "_vnni" in _CPUINFO.read_text()
"""Products of bytes are added up in 32 bits. AVX2 alone adds two in 16 bits, which end at 32767."""
