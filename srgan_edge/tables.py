"""What `info`, `eval` and `doctor` print for people, and the records they print for machines."""

from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from srgan_edge.doctor import Finding
from srgan_edge.evaluate import Evaluation
from srgan_edge.halo import HaloError
from srgan_edge.models import ModelFiles

_SIGNS = {"ok": "[green]ok[/]", "absent": "[dim]--[/]", "broken": "[red]broken[/]"}


def spec_table(model: ModelFiles) -> Table:
    """A model's spec, a line a fact."""
    spec = model.spec
    table = Table(title=spec.name, show_header=False, box=None, title_justify="left")
    rows: dict[str, object] = {
        "architecture": f"{spec.architecture}, {spec.blocks} blocks of {spec.channels} channels",
        "scale": f"x{spec.scale}",
        "values": f"RGB in [0, 1], sRGB as stored; head {spec.head}, norm {spec.norm}",
        "receptive radius": f"{spec.receptive_radius_px} px of the input",
        "tile halo": "not measured" if spec.halo_px is None else f"{spec.halo_px} px",
        "licence": spec.licence,
    }
    if spec.training is not None:
        scores = ", ".join(f"{name} {dB:.2f} dB" for name, dB in spec.training.scores.items())
        rows |= {
            "recipe": f"{spec.training.recipe}, {spec.training.steps} steps",
            "data": spec.training.data,
            "hardware": spec.training.hardware,
            "PSNR-Y": scores or "not stated",
        }
    rows["files"] = ", ".join(str(path) for path in model.files.values())
    for name, value in rows.items():
        table.add_row(f"  {name}", escape(str(value)))
    return table


def evaluation_table(what: str, evaluations: list[Evaluation]) -> Table:
    """Means by benchmark."""
    table = Table("benchmark", title=escape(what), title_justify="left")
    for heading in ("PSNR-Y dB", "SSIM-Y", "PSNR-RGB dB", "shift R", "shift G", "shift B"):
        table.add_column(heading, justify="right")
    for evaluation in evaluations:
        mean = evaluation.mean
        table.add_row(
            f"{escape(evaluation.folder.name)} ({len(evaluation.pictures)})",
            f"{mean.psnr_y:.2f}",
            f"{mean.ssim_y:.4f}",
            f"{mean.psnr_rgb:.2f}",
            *(f"{s:+.2f}" for s in (mean.shift_red, mean.shift_green, mean.shift_blue)),
        )
    return table


def evaluation_record(what: str, evaluations: list[Evaluation]) -> dict[str, Any]:
    """The same and every picture's scores, as plain data."""
    benchmarks = {
        evaluation.folder.name: {
            "mean": asdict(evaluation.mean),
            "pictures": {name: asdict(scores) for name, scores in evaluation.pictures.items()},
        }
        for evaluation in evaluations
    }
    return {"system": what, "benchmarks": benchmarks}


def halo_table(errors: list[HaloError], halo_px: int) -> Table:
    """Difference by halo; the one that `--overlap auto` would use is marked."""
    table = Table("halo px", "max difference of 255", "values that differ")
    for error in errors:
        mark = "  [green]auto[/]" if error.halo_px == halo_px else ""
        table.add_row(f"{error.halo_px}{mark}", str(error.max_levels), f"{error.differing:.4%}")
    return table


def doctor_table(findings: list[Finding]) -> Table:
    """One line a finding, grouped."""
    table = Table(box=None, show_header=False)
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            table.add_row(f"[bold]{group}[/]")
        detail = escape(finding.detail)
        if finding.advice:
            detail += f"  [dim]{escape(finding.advice)}[/]"
        table.add_row(f"  {finding.name}", _SIGNS[finding.status], detail)
    return table
