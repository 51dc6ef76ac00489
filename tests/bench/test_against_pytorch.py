"""The latency of every installed engine against PyTorch in eager mode, as ratios within one run.

`make bench` keeps the same figures for larger frames in benchmarks/results/.
"""

import pytest

pytest.importorskip("torch")

from srgan_edge.bench.measure import Plan, bench
from srgan_edge.engines import KINDS, choose_engine
from srgan_edge.model.library import find_model

PAPERS_GENERATOR = "srgan-x4"


@pytest.mark.slow
def test_the_default_cpu_engine_is_not_slower_than_pytorch(capsys):
    """Other work on the cores lengthens every time but the shortest, and the CPU time hardly."""
    plan = Plan([PAPERS_GENERATOR], ["auto"], [], "cpu", 80, 56, seconds=30, end_to_end=False)
    (model,) = bench(plan, lambda doing, share: None).models
    reference = model.reference
    assert reference.is_reference and reference.failed is None
    ratios = {}
    for row in model.rows:
        assert row.failed is None, f"{row.label}: {row.failed}"
        latency = reference.latency(0) / row.latency(0)
        cpu_time = min(reference.cpu_seconds) / min(row.cpu_seconds)
        ratios[row.candidate.engine] = latency, cpu_time
        with capsys.disabled():
            print(
                f"\n{PAPERS_GENERATOR}, {row.label}: {latency:.2f} times as fast as PyTorch by "
                f"latency, {cpu_time:.2f} by CPU time"
            )
    on_cpu = [kind for kind in KINDS.values() if kind.installed and kind.suffix == ".onnx"]
    assert ratios.keys() == {"reference", *(kind.name for kind in on_cpu)}
    ours = choose_engine(find_model(PAPERS_GENERATOR), device="cpu").kind.name
    assert max(ratios[ours]) >= 1
