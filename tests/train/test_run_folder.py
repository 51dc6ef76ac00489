"""The folder of a run belongs to one process, and is there only if something is in it."""

import os
from pathlib import Path

import pytest

from srgan_edge.errors import OutputFailed
from srgan_edge.train.run_folder import lock_run_folder


def test_a_folder_in_use_is_refused_and_one_without_a_run_goes(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    with lock_run_folder(run):
        in_use = rf"mine is in use by process {os.getpid()}; wait for it"
        with pytest.raises(OutputFailed, match=in_use), lock_run_folder(run):
            pytest.fail("two have the lock")
    assert list(tmp_path.iterdir()) == []
    with lock_run_folder(run):
        (run / "log.jsonl").touch()
    assert sorted(path.name for path in run.iterdir()) == ["lock", "log.jsonl"]
    with lock_run_folder(run) as folder:
        assert folder.checkpoints_folder.is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputFailed, match="name another with -o"),
        lock_run_folder(tmp_path / "file"),
    ):
        pytest.fail("the body has run")
