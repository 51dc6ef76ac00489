"""The folder of a run belongs to one process, and is there only if something is in it."""

import os
from pathlib import Path

import pytest

from srgan_edge.errors import OutputFailed, UsageError
from srgan_edge.train.run_folder import RunFolder, lock_run_folder, refuse_run_folder


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


RELEASED = "edge-x4.safetensors"


@pytest.mark.parametrize("text", ["somebody's", "4711\n", None])
def test_a_lock_that_no_run_made_stays(tmp_path: Path, text: str | None) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if text is None:
        (tmp_path / "mine.txt").write_text("srgan-edge train, process 1\n")
        (run / "lock").symlink_to("../mine.txt")
    else:
        (run / "lock").write_text(text)
    with pytest.raises(UsageError, match=r"run/lock exists and no run made it.*with -o"):
        refuse_run_folder(run, RELEASED, [])
    if text is None:
        with pytest.raises(OutputFailed, match="with -o"), lock_run_folder(run):
            pytest.fail("wrote through a link")
        assert (tmp_path / "mine.txt").read_text() == "srgan-edge train, process 1\n"


def test_an_empty_lock_proves_no_run_and_stays(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with lock_run_folder(tmp_path):
        pass
    assert [it.name for it in tmp_path.iterdir()] == ["lock"]
    (tmp_path / "lock").write_text("")
    (tmp_path / RELEASED).touch()
    with pytest.raises(UsageError, match=rf"{RELEASED} exists and no run made it"):
        refuse_run_folder(tmp_path, RELEASED, [])


@pytest.mark.parametrize("line", [None, "4711\n"])
def test_a_folder_of_a_run_is_known_by_its_lock_or_its_checkpoints(
    tmp_path: Path, line: str | None
) -> None:
    with lock_run_folder(tmp_path) as folder:
        (tmp_path / RELEASED).touch()
        folder.save({}, 4, 1)
    if line is None:  # killed before its first checkpoint
        RunFolder(tmp_path).checkpoints()[0].unlink()
    else:  # as earlier versions wrote it
        (tmp_path / "lock").write_text(line)
    refuse_run_folder(tmp_path, RELEASED, [])


@pytest.mark.parametrize("name", ["best", "ä" * 122])
def test_a_name_that_the_result_cannot_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"choose another model\.name"):
        refuse_run_folder(tmp_path, f"{name}.safetensors", [])
