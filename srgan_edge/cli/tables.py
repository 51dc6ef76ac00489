"""Tables that commands print for people, and records that they print for programs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite, isnan
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from srgan_edge.cli.doctor import Finding
from srgan_edge.engines.cache import CachedEngine
from srgan_edge.errors import ModelRefused, printable
from srgan_edge.evaluation.evaluate import METRICS, Evaluation, Scores
from srgan_edge.evaluation.parity import HaloError, Verdict
from srgan_edge.evaluation.systems import System, benchmark_name
from srgan_edge.model.library import ModelFiles, bundled_models, registered_models
from srgan_edge.model.store import downloaded_files

if TYPE_CHECKING:  # which needs torch
    from srgan_edge.train.photo_check import PhotoCheck

Evaluations: TypeAlias = Mapping[str, Sequence[Evaluation]]
"""Evaluations by system name, one for each benchmark."""

_SIGNS = {"ok": "[green]ok[/]", "absent": "[dim]--[/]", "broken": "[red]broken[/]"}

_ARROWS = {"higher": " ↑", "lower": " ↓", "nearer zero": ""}


def spec_lines(model: ModelFiles, width: int) -> Iterator[str]:
    """A model's name and facts; long ones are wrapped at `width`, but paths stay whole."""
    spec = model.spec
    size = f", {spec.blocks} blocks of {spec.channels} channels"
    rows = {
        "architecture": spec.architecture
        + (size if spec.foreign is None else ", another program's"),
        "scale": f"x{spec.scale}",
        "values": f"RGB in [0, 1], sRGB as stored; head {spec.head}, norm {spec.norm}",
        "receptive radius": f"{spec.receptive_radius_px} px of the input",
        "tile halo": "not measured" if spec.halo_px is None else f"{spec.halo_px} px",
        "licence": spec.licence,
    }
    if (foreign := spec.foreign) is not None:
        values = "luma, and chroma by bicubic interpolation" if foreign.is_luma else "RGB"
        rows["values"] = f"{values}, in [0, 1], sRGB as stored"
        rows["tile halo"] = f"{spec.auto_halo_px} px"
        rows["receptive radius"] += ", traced" if foreign.is_traced else ", measured"
        rows |= {
            "input": f"{foreign.window_px} px square" if foreign.window_px else "any size",
            "multiples": f"{foreign.multiple} px",
            "whole frames": foreign.whole_frames or "not needed",
            "source": foreign.source or "not stated",
        }
    if spec.quantized_from:
        rows["arithmetic"] = f"INT8 but for the first and last layer; made of {spec.quantized_from}"
    if spec.training is not None:
        scores = ", ".join(f"{name} {dB:.2f} dB" for name, dB in spec.training.scores.items())
        rows |= {
            "recipe": f"{spec.training.recipe}, {spec.training.steps} steps",
            "data": spec.training.data,
            "hardware": spec.training.hardware,
            "PSNR-Y": scores or "not stated",
        }
    yield spec.name
    for name, value in rows.items():
        yield from wrap(value, width, initial_indent=f"   {name:18}", subsequent_indent=21 * " ")
    for number, path in enumerate(model.files.values()):
        yield f"   {'' if number else 'files':18}{path}"


def model_records() -> list[dict[str, Any]]:
    """Return the models of this machine; one that cannot be read has its trouble for a scale."""
    groups = {"bundled": bundled_models(), "registered": registered_models()}
    groups["downloaded"] = {
        f"{path.parent.name[:8]}/{path.stem}": ModelFiles(path.stem, {path.suffix: path})
        for path in downloaded_files()
    }
    records = []
    for kind, models in groups.items():
        for name, model in models.items():
            path = model.files.get(".onnx") or next(iter(model.files.values()))
            record: dict[str, Any] = {"name": name, "kind": kind, "path": str(path)}
            record["bytes"] = path.stat().st_size
            try:
                spec = model.spec
            except ModelRefused as refusal:
                records.append(record | {"trouble": str(refusal)})
                continue
            facts = {"scale": spec.scale, "architecture": spec.architecture}
            records.append(record | facts | {"licence": spec.licence, "trouble": ""})
    return records


def models_table(records: list[dict[str, Any]]) -> Table:
    """Tabulate what `model_records` returns."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("model", "", "scale", "architecture", "MiB", "licence"):
        table.add_column(heading, justify="right" if heading in ("MiB", "scale") else "left")
    for record in records:
        trouble = record["trouble"]
        table.add_row(
            _shown(record["name"]),
            record["kind"],
            "" if trouble else f"x{record['scale']}",
            f"[red]{_shown(trouble)}[/]" if trouble else _shown(record["architecture"]),
            f"{record['bytes'] / 2**20:.1f}",
            "" if trouble else _shown(record["licence"]),
        )
    return table


def evaluation_table(systems: Sequence[System], evaluations: Evaluations) -> Table:
    """Tabulate means by benchmark and system; the best of several systems is bold.

    Args:
        evaluations: evaluations by system name, over one list of folders.
    """
    columns = list(evaluations[systems[0].name][0].mean.values)
    table = Table(
        "benchmark",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title="\n".join(_shown(system.description) for system in systems),
        title_justify="left",
        caption_justify="left",
    )
    if len(systems) > 1:
        table.add_column("system")
    for name in columns:
        table.add_column(METRICS[name].heading + _ARROWS[METRICS[name].better], justify="right")
    notes: dict[str, None] = {}
    for of_benchmark in zip(*evaluations.values(), strict=True):
        means = [evaluation.mean for evaluation in of_benchmark]
        best = {name: METRICS[name].best([mean[name] for mean in means]) for name in columns}
        first = f"{benchmark_name(of_benchmark[0].folder)} ({len(of_benchmark[0].images)})"
        table.add_section()
        for system, mean in zip(systems, means, strict=True):
            texts = {name: METRICS[name].text(mean[name]) for name in columns}
            if len(systems) == 1:
                table.add_row(_shown(first), *texts.values())
                continue
            marked = [f"[bold]{t}[/]" if t == best[name] else t for name, t in texts.items()]
            table.add_row(_shown(first), _shown(system.name), *marked)
            first = ""
        notes |= {f"-- {name}: {why}": None for m in means for name, why in m.undefined.items()}
    table.caption = "\n".join(map(_shown, notes)) or None
    return table


def evaluation_record(system: System, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return one system's means and the scores of every image as JSON values; None if undefined."""
    benchmarks = {
        benchmark_name(evaluation.folder): {
            "mean": _plain(evaluation.mean),
            "images": {name: _plain(scores) for name, scores in evaluation.images.items()},
        }
        for evaluation in evaluations
    }
    return {"system": system.description, "name": system.name, "benchmarks": benchmarks}


def _plain(scores: Scores) -> dict[str, float | None]:
    return {name: None if isnan(value) else value for name, value in scores.values.items()}


def halo_table(errors: list[HaloError], halo_px: int) -> Table:
    """Tabulate differences by halo; the halo that `--overlap auto` uses is marked."""
    table = Table("halo px", "max difference of 255", "values that differ")
    for error in errors:
        mark = "  [green]auto[/]" if error.halo_px == halo_px else ""
        table.add_row(f"{error.halo_px}{mark}", str(error.max_levels), f"{error.differing:.4%}")
    return table


def doctor_table(findings: list[Finding]) -> Table:
    """Tabulate findings by group."""
    table = Table(box=None, show_header=False)
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            table.add_row(f"[bold]{group}[/]")
        detail = _shown(finding.detail)
        if finding.advice:
            detail += f"  [dim]{_shown(finding.advice)}[/]"
        table.add_row(f"  {finding.name}", _SIGNS[finding.status], detail)
    return table


def engines_table(engines: list[CachedEngine]) -> Table:
    """Tabulate cached engines, with the reason why one does not run here."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("engine", "MiB", "shape", "for", "runtime", "parity"):
        table.add_column(heading, justify="right" if heading == "MiB" else "left")
    for engine in engines:
        size = f"{engine.bytes / 2**20:.1f}"
        if (passport := engine.passport) is None:
            table.add_row(
                _shown(engine.path.name), size, "", "", f"[red]{_shown(engine.trouble)}[/]"
            )
            continue
        runtime = _shown(f"{passport.key.module} {passport.key.version}")
        if engine.trouble:
            runtime = f"[red]{_shown(engine.trouble)}[/]"
        parity = ", ".join(f"{figures['psnr_db']:.1f} dB" for figures in passport.parity.values())
        table.add_row(
            _shown(engine.path.name),
            size,
            _shown(passport.key.profile),
            _shown(", ".join(passport.key.compute_capabilities)),
            runtime,
            parity,
        )
    return table


def verdict_table(verdicts: list[Verdict]) -> Table:
    """Tabulate engines: differences in levels of 255, and the result of the gate."""
    table = Table(box=SIMPLE_HEAD)
    benchmarks = list(verdicts[0].psnr_y_loss_db) if verdicts else []
    losses = [_shown(f"{name} loss dB") for name in benchmarks]
    for heading in ("engine", "precision"):
        table.add_column(heading)
    for heading in ("max", "p99.9", "mean", "PSNR dB", "tiles max", *losses):
        table.add_column(heading, justify="right")
    table.add_column("gate")
    for verdict in verdicts:
        parity = verdict.parity
        table.add_row(
            _shown(verdict.info.name),
            _shown(verdict.info.arithmetic),
            str(parity.max_levels),
            str(parity.p999_levels),
            f"{parity.mean_levels:.4f}",
            f"{parity.psnr_db:.1f}",
            "-" if verdict.tiled is None else str(verdict.tiled.max_levels),
            *(f"{loss:+.4f}" for loss in verdict.psnr_y_loss_db.values()),
            "[red]missed[/]" if verdict.refusals else "[green]passed[/]",
        )
    return table


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON values."""
    return {
        "engine": verdict.info.name,
        "precision": verdict.info.arithmetic,
        "parity": _finite(asdict(verdict.parity)),
        "tiled": None if verdict.tiled is None else _finite(asdict(verdict.tiled)),
        "psnr_y_loss_db": verdict.psnr_y_loss_db,
        "refusals": verdict.refusals,
    }


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """Replace infinity, which JSON lacks, with None: the PSNR of equal images is null."""
    return {name: value if isfinite(value) else None for name, value in values.items()}


def check_table(check: "PhotoCheck") -> Group:
    """Tabulate findings, followed by counts of usable photographs."""
    from srgan_edge.train.photo_files import Flaw

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    for finding in check.findings:
        color = "red" if finding.problem in get_args(Flaw) else "yellow"
        table.add_row(
            _shown(finding.path), f"[{color}]{finding.problem}[/]", _shown(finding.detail)
        )
    counts = ", ".join(f"{count} {problem}" for problem, count in check.counts.items() if count)
    return Group(
        *([table] if check.findings else []),
        f"{check.files} files: {counts or 'nothing wrong with them'}",
        f"usable            {check.usable} photographs, {check.usable_megapixels:.1f} megapixels",
        f"without a finding {check.clean} photographs, {check.clean_megapixels:.1f} megapixels",
    )


def _shown(value: object) -> str:
    """Return the markup of a text that may be a stranger's: neither markup nor control codes."""
    return escape(printable(str(value)))
