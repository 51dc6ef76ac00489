"""What `deploy/` holds fits the service: options, metrics, and how little a unit may do."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from srgan_edge.cli import app
from srgan_edge.serve.log import Log
from srgan_edge.serve.service import Service
from srgan_edge.serve.settings import Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MOST_EXPOSURE = 2.5


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_may_do_little():
    unit = DEPLOY / "srgan-edge.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit],
        capture_output=True,
        text=True,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    if found is None:
        pytest.skip(f"systemd-analyze cannot say: {done.stderr[:200]}")
    assert float(found[1]) <= MOST_EXPOSURE
    allowed = unit.read_text()  # older systemd has them in no group; decoders lock themselves in
    assert all(it in allowed for it in ("seccomp", "landlock_restrict_self"))
    page = (DEPLOY.parent / "docs" / "serve.md").read_text()
    assert f"`systemd-analyze security` rates it {found[1]}" in page


def test_options_in_the_recipes_exist():
    known = {name for it in get_command(app).commands["serve"].params for name in it.opts}
    recipes = [path.read_text() for path in DEPLOY.iterdir() if path.name != "grafana.json"]
    started = "\n".join(
        line for text in recipes for line in text.splitlines() if "srgan-edge" in line
    )
    named = set(re.findall(r"(?<=[\s\"])--(?:host|port|data|new-token|root|models?)\b", started))
    assert {"--host", "--data", "--new-token"} <= named <= known


def test_panels_show_metrics_that_there_are(tmp_path):
    service = Service(Settings(tmp_path / "data"), Log(open("/dev/null", "w")))  # noqa: PTH123, SIM115
    service.metrics.ended.labels("image", "0").inc()
    page = service.metrics.page().decode()
    service.close()
    board = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    names = {name for it in asked for name in re.findall(r"srgan_edge_\w+", it)}
    assert names
    for name in names:
        assert f"# TYPE {re.sub('_(bucket|total)$', '', name)}" in page, name
