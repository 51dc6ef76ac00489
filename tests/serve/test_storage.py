"""The data folder and the options of `serve`: what is not its own stays, what is wrong is named."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from srgan_edge.errors import OutputFailed
from srgan_edge.serve.database import TABLES, tables_in
from srgan_edge.serve.store import JobStore, new_id
from srgan_edge.serve.tokens import Tokens


@pytest.mark.parametrize("place", ["jobs", "incoming"])
def test_files_of_others_in_the_data_folder_stay(tmp_path, cli, place):
    kept = tmp_path / place / "thesis/a.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    for option in (("--port", "0"), ("--new-token", "a")):
        code, _, err = cli("serve", "--data", tmp_path, *option)
        assert code == 5 and "--data" in err and place in err, err
    assert kept.read_text() == "precious" and not (tmp_path / "jobs.sqlite3").exists()


def test_only_folders_of_jobs_are_removed(tmp_path):
    store = JobStore(tmp_path)
    left = [store.jobs_folder / new_id(), store.incoming / f"{new_id()}-result"]
    kept = [store.jobs_folder / "thesis", store.incoming / "letters"]
    for folder in (*left, *kept):
        folder.mkdir()
        (folder / "a.txt").write_text("a")
    store.recover()
    store.close()
    assert not any(it.exists() for it in left) and all((it / "a.txt").exists() for it in kept)


def test_a_database_that_is_none_is_one_line(tmp_path, cli):
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 500)
    with pytest.raises(OutputFailed, match="not a database"):
        JobStore(tmp_path)
    for option in ("--new-token", "--revoke-token"):
        code, _, err = cli("serve", "--data", tmp_path, option, "a")
        assert code == 5 and "name another folder with --data" in err, err


def test_a_token_that_nobody_could_read_is_not_kept(tmp_path):
    words = [sys.executable, "-m", "srgan_edge", "serve", "--data", tmp_path, "--new-token", "a"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert done.returncode == 5 and "cannot write to standard output" in done.stderr
    with closing(JobStore(tmp_path)) as store:
        assert Tokens(store.database).names == []


@pytest.mark.parametrize(
    ("options", "exit_code", "line"),
    [
        (("--max-mb", "0"), 2, "--max-mb 0; possible: above 0"),
        (("--keep-gb", "-inf"), 2, "--keep-gb -1.07374e+09; possible: above 0"),
        (("--keep-free-mb", "-5"), 2, "--keep-free-mb -5; possible: 0 or more"),
        (("--max-mb", "inf", "--host", "a" * 80), 5, "name another one with --host"),
        (("--host", ".."), 5, "name another one with --host"),
        (("--new-token", "a\nb"), 2, "characters that can be printed"),
        (("--new-token", "\udcff"), 2, "characters that can be printed"),
        (("--new-token", "a" * 101), 2, "characters that can be printed"),
        (("--revoke-token", "\udcff"), 2, "there are: none"),
    ],
)
def test_options_that_are_wrong_are_named(tmp_path, cli, options, exit_code, line):
    code, _, err = cli("serve", "--port", "0", "--data", tmp_path / "data", *options)
    assert code == exit_code and line in err and err.count("\n") == 1, err


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("table", ["notes", "jobs"])
def test_a_database_of_another_program_stays(tmp_path, cli, table, mode):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/a.txt").write_text("precious")
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as other:
        other.execute(f"PRAGMA journal_mode={mode}")
        other.execute(f"CREATE TABLE {table} (a)")
    before = contents(tmp_path)
    for option in (("--port", "0"), ("--new-token", "a")):
        code, _, err = cli("serve", "--data", tmp_path, *option)
        assert code == 5 and "another program; name another folder with --data" in err, err
    assert contents(tmp_path) == before and not (tmp_path / "incoming").exists()


def test_a_log_without_its_database_stays(tmp_path, cli):
    (tmp_path / "jobs.sqlite3-wal").write_text("precious")
    code, _, err = cli("serve", "--data", tmp_path, "--port", "0")
    assert code == 5 and "jobs.sqlite3-wal exists" in err and "--data" in err, err
    assert contents(tmp_path) == {tmp_path / "jobs.sqlite3-wal": b"precious"}


def test_the_database_of_a_killed_service_is_its_own(tmp_path):
    """All of it may still be in the log, from which `tables_in` has to read it."""
    store = JobStore(tmp_path / "data")
    copy = tmp_path / "copy"  # as a kill leaves it
    shutil.copytree(tmp_path / "data", copy)
    (copy / "jobs" / new_id()).mkdir()
    store.close()
    assert (
        len((copy / "jobs.sqlite3").read_bytes()) <= 4096 and (copy / "jobs.sqlite3-wal").exists()
    )
    JobStore(copy).close()
    assert tables_in(copy / "jobs.sqlite3") >= TABLES
