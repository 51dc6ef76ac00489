"""Fuzz one target with atheris: `run_fuzz.py TARGET SECONDS`. `make fuzz` runs all of them.

What is found lies in `build/fuzz/`; once it is understood it moves to `corpus/TARGET/`, where the
ordinary tests replay it.
"""

import sys
from pathlib import Path

import atheris

BUILD = Path("build") / "fuzz"

with atheris.instrument_imports(include=["srgan_edge", "PIL", "json"]):
    from fuzz_targets import TARGETS, corpus


def main() -> None:
    name, seconds = sys.argv[1:]
    target, folder = TARGETS[name], BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(corpus(name)):
        (folder / f"seed-{number}").write_bytes(content)
    options = [
        f"-max_total_time={seconds}",
        "-timeout=30",
        "-rss_limit_mb=4096",
        "-max_len=262144",
        f"-artifact_prefix={BUILD / name}-",
        "-verbosity=0",
        str(folder),
    ]
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()


main()
