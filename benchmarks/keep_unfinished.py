"""Keeps the averaged weights of runs that are not done, so that another machine can go on.

    python benchmarks/keep_unfinished.py RUN...

Of each run folder the newest checkpoint's average is written into `train/unfinished`, in FP16 and
without the optimizer, as NAME.safetensors of the recipe's model; `--init` starts from it.
"""

import argparse
import ast
import dataclasses
from pathlib import Path

import safetensors.torch

from srgan_edge.errors import InputRefused
from srgan_edge.files import replace_when_whole
from srgan_edge.model.spec import METADATA_KEY, ModelSpec, Training
from srgan_edge.train.run_folder import RunFolder

FOLDER = Path(__file__).resolve().parent.parent / "train" / "unfinished"


def keep(run: Path, folder: Path | None = None, hardware: str = "CPU") -> Path:
    """Write the average of one run into `folder`, or `FOLDER`; returns the file.

    Raises:
        InputRefused: the run has no checkpoint.
    """
    found = RunFolder(run).newest()
    if found is None:
        raise InputRefused(f"{run}: no checkpoint in it")
    record, _ = found
    chosen = {
        field.name: record["identity"][f"model.{field.name}"]
        for field in dataclasses.fields(ModelSpec)
        if f"model.{field.name}" in record["identity"]
    }
    spec = ModelSpec(**{name: ast.literal_eval(text) for name, text in chosen.items()})
    training = Training(
        recipe=f"{spec.name.removesuffix('-x4')}, unfinished",
        data=record["identity"]["photographs"],
        steps=record["step"],
        hardware=f"{hardware}, {record['seconds'] / 60:.0f} minutes",
    )
    half = {name: tensor.half().contiguous() for name, tensor in record["average"].items()}
    content = safetensors.torch.save(
        half, {METADATA_KEY: dataclasses.replace(spec, training=training).to_json()}
    )
    path = (folder or FOLDER) / f"{spec.name}.safetensors"
    with replace_when_whole(path) as partial:
        partial.write_bytes(content)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep averaged weights of unfinished runs.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    for run in parser.parse_args().runs:
        print(keep(run))


if __name__ == "__main__":
    main()
