"""The cache of engines: keys, locks, damage, permissions, and what `engines` shows of it."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from srgan_edge.engines.cache import EngineCache
from srgan_edge.errors import ModelRefused, OutputFailed, UsageError
from srgan_edge.machine import installed_version
from srgan_edge.model.library import find_model
from srgan_edge.model.passport import (
    EngineKey,
    Passport,
    Profile,
    passport_path,
    read_passport,
    write_engine,
)

KEY = EngineKey(
    module="tensorrt_rtx",
    version="1.7.1.116",
    graph_sha256="a" * 64,
    profile=Profile.static(1, 144, 144),
    compute_capabilities=("8.9",),
    gpu="",
    driver="",
    workspace_mib=None,
    optimization_level=None,
    platform="Linux x86_64",
)
PLAN = b"vtrt and so on"


def passport_of(key, plan=PLAN):
    return Passport(
        spec=find_model("edge-x4").spec,
        source="edge-x4",
        key=key,
        precision="fp16",
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        build_seconds=0.1,
        parity={"fp16 graph": {"psnr_db": 70.0}},
        layers=(),
    )


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def stored(cache):
    path = cache.path_of(KEY, "edge-x4")
    write_engine(path, PLAN, passport_of(KEY))
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"module": "tensorrt"},
        {"version": "1.7.1.117"},
        {"graph_sha256": "b" * 64},
        {"profile": Profile.static(1, 144, 145)},
        {"profile": Profile((1, 1, 1), (1, 144, 144), (1, 144, 144))},
        {"compute_capabilities": ("8.6",)},
        {"compute_capabilities": ("8.9", "12.0")},
        {"gpu": "NVIDIA GeForce RTX 4090, 128 multiprocessors"},
        {"driver": "13.0"},
        {"workspace_mib": 1024},
        {"optimization_level": 3},
        {"platform": "Linux aarch64"},
    ],
    ids=str,
)
def test_each_ingredient_changes_the_key(cache, stored, change):
    other = dataclasses.replace(KEY, **change)
    assert cache.path_of(other, "edge-x4") != stored
    assert cache.find(stored, KEY) == passport_of(KEY)
    assert cache.find(stored, other) is None


def test_a_key_is_the_same_in_every_process():
    code = "from tests.engines.test_engine_cache import KEY; print(KEY.digest, end='')"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == KEY.digest


def test_damaged_engines_are_not_found(cache, stored):
    stored.write_bytes(PLAN[:-1])
    assert cache.find(stored, KEY) is None
    assert cache.engines()[0].trouble == "damaged"
    passport_path(stored).unlink()
    assert cache.engines()[0].trouble == "has no passport"


def test_a_cache_others_may_write_to_is_refused(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ModelRefused, match=r"could be written to by others.*type: chmod go-w"):
        EngineCache(folder)


def test_a_new_cache_is_for_its_owner_alone(cache):
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("SRGAN_EDGE_CACHE", raising=False)
    assert EngineCache().folder == tmp_path / "xdg" / "srgan-edge" / "engines"
    monkeypatch.setenv("SRGAN_EDGE_CACHE", str(tmp_path / "mine"))
    assert EngineCache().folder == tmp_path / "mine"


def test_a_cache_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFailed, match="name another folder in SRGAN_EDGE_CACHE"):
        EngineCache(tmp_path / "file" / "cache")


BUILD = """
import sys, time
from pathlib import Path
from srgan_edge.engines.cache import EngineCache
from srgan_edge.model.passport import write_engine
from tests.engines.test_engine_cache import KEY, PLAN, passport_of
cache = EngineCache(Path(sys.argv[1]))
path = cache.path_of(KEY, "edge-x4")
with cache.locked(path):
    if cache.find(path, KEY) is None:
        print("building", flush=True)
        time.sleep(float(sys.argv[2]))
        write_engine(path, PLAN, passport_of(KEY))
    else:
        print("found", flush=True)
"""


def builder(cache, seconds):
    command = [sys.executable, "-c", BUILD, str(cache.folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_two_builders_one_builds_and_one_waits(cache):
    builders = [builder(cache, 0.5) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in builders)
    assert said == ["building", "found"]
    assert cache.find(cache.path_of(KEY, "edge-x4"), KEY) == passport_of(KEY)


def test_a_lock_awaited_while_its_engine_is_removed_still_counts(cache, stored):
    """Not that of the file which was removed: a third process would lock a new one."""
    with cache.locked(stored):
        waiting = builder(cache, 0)
        time.sleep(0.5)
        for path in cache.folder.iterdir():
            path.unlink()
    assert waiting.communicate(timeout=60)[0] == "building\n"
    assert stored.with_suffix(".lock").exists()


def test_a_builder_killed_at_work_leaves_nothing_that_is_used(cache):
    first = builder(cache, 60)
    assert first.stdout.readline() == "building\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert cache.engines() == []
    second = builder(cache, 0)
    assert second.communicate(timeout=60)[0] == "building\n"
    assert cache.find(cache.path_of(KEY, "edge-x4"), KEY) == passport_of(KEY)


def test_prune_removes_unusable_engines_and_files_of_dead_builders(cache, stored):
    good = dataclasses.replace(KEY, version=installed_version("tensorrt-rtx") or "0")
    kept = cache.path_of(good, "kept")
    write_engine(kept, PLAN, passport_of(good))
    stored.write_bytes(b"damaged")
    with cache.locked(kept):
        pass
    left = cache.folder / f".{kept.stem[:40]}.partial-1234.engine"
    left.write_bytes(b"half")
    removed = {engine.path for engine in cache.prune()}
    expected = {stored} if installed_version("tensorrt-rtx") else {stored, kept}
    assert removed == expected
    assert not left.exists()
    assert not passport_path(stored).exists()
    assert kept.exists() == (kept not in removed)


def test_prune_leaves_a_builder_at_work_alone(cache):
    path = cache.path_of(KEY, "busy")
    partial = cache.folder / f".{path.stem[:40]}.partial-1234.engine"
    with cache.locked(path):
        partial.write_bytes(b"half")
        assert cache.prune() == []
        assert partial.exists()


def test_a_folder_is_no_engine(cache):
    (cache.folder / "a.engine").mkdir()
    assert cache.engines() == []
    assert cache.prune() == []


def test_an_engine_is_removed_by_name(cache, stored):
    assert cache.remove(stored.stem) == stored
    assert list(cache.folder.iterdir()) == []
    with pytest.raises(UsageError, match=r"no engine 'nothing' in .*; type: srgan-edge"):
        cache.remove("nothing")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", ""])
def test_nothing_outside_the_cache_is_removed(cache, tmp_path, name):
    outside = tmp_path / "outside.engine"
    outside.write_text("")
    with pytest.raises(UsageError):
        cache.remove(name)
    assert outside.exists()


def run(*arguments, **environment):
    command = [sys.executable, "-m", "srgan_edge", *arguments]
    env = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=120, check=False
    )


def test_the_command_line_shows_and_removes_them(cache, stored):
    here = {"SRGAN_EDGE_CACHE": str(cache.folder)}
    listed = run("engines", "list", **here)
    assert stored.name in listed.stdout
    assert "1x144x144" in listed.stdout
    record = json.loads(run("engines", "list", "--json", **here).stdout)[0]
    assert record["passport"]["key"]["graph_sha256"] == KEY.graph_sha256
    assert run("engines", "rm", stored.name, **here).stdout == f"removed {stored}\n"
    assert run("engines", "rm", stored.name, **here).returncode == 2
    assert run("engines", "list", **here).stdout == f"no engines in {cache.folder}\n"
    assert run("engines", "prune", **here).returncode == 0


EXPORT = ("export", "edge-x4", "--rtx", "--shape", "1x9x7", "--compute-capability", "8.9")


def exporter(cache, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "srgan_edge", *EXPORT, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SRGAN_EDGE_CACHE": str(cache.folder), "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.slow
def test_of_two_exports_at_once_one_builds(cache):
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("torch")
    said = [process.communicate(timeout=120)[0] for process in [exporter(cache), exporter(cache)]]
    assert sum("every convolution in fp16; built for 1x9x7" in text for text in said) == 1, said
    assert sum("built before and still whole" in text for text in said) == 1, said
    assert [engine.trouble for engine in cache.engines()] == [""]


@pytest.mark.slow
def test_an_export_killed_at_work_is_done_again(cache):
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("torch")
    process = exporter(cache)
    for line in process.stdout:
        if line.startswith("parity"):  # what follows is the build
            break
    process.kill()
    process.wait()
    assert cache.engines() == []
    assert run(*EXPORT, SRGAN_EDGE_CACHE=str(cache.folder)).returncode == 0
    assert [engine.trouble for engine in cache.engines()] == [""]


@pytest.mark.slow
def test_a_full_disk_is_reported_and_leaves_nothing(cache):
    """A limit on the size of files is as good: the engine has 740 KB."""
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("torch")
    code = (
        "import resource, runpy, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "runpy.run_module('srgan_edge', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *EXPORT],
        capture_output=True,
        text=True,
        env={**os.environ, "SRGAN_EDGE_CACHE": str(cache.folder)},
        check=False,
    )
    assert ended.returncode == 5, ended.stderr
    assert (
        "File too large; raise the limit (ulimit -f) or name another place with SRGAN_EDGE_CACHE"
        in ended.stderr
    )
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


@pytest.mark.slow
def test_an_engine_is_built_once(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("torch")
    here = {"SRGAN_EDGE_CACHE": str(tmp_path / "cache")}
    options = ("export", "edge-x4", "--rtx", "--shape", "1x9x7", "--compute-capability", "8.9")
    first = run(*options, **here)
    assert first.returncode == 0, first.stderr
    assert "every convolution in fp16" in first.stdout
    begun = time.time()
    again = run(*options, **here)
    assert "built before and still whole" in again.stdout
    (engine,) = (tmp_path / "cache").glob("*.engine")
    assert engine.stat().st_mtime < begun
    engine.write_bytes(engine.read_bytes()[:-1])
    assert "every convolution in fp16" in run(*options, **here).stdout


def test_waiting_is_reported(cache):
    path = cache.path_of(KEY, "edge-x4")
    at_work = builder(cache, 0.5)
    assert at_work.stdout.readline() == "building\n"
    said = []
    with cache.locked(path, lambda: said.append("waiting")):
        assert cache.find(path, KEY) is not None
    assert said == ["waiting"]
    at_work.wait()


@pytest.mark.parametrize(
    "change",
    [
        {"parity": 5},
        {"parity": {"a": {}}},
        {"parity": {"a": {"psnr_db": "x"}}},
        {"compute_capabilities": [8, 9]},
        {"compute_capabilities": "8.9"},
        {"compute_capabilities": []},
        {"module": 5},
        {"module": "\x1b]0;title"},
        {"version": 7},
        {"gpu": {}},
        {"source": "\x1b]0;title"},
        {"precision": "int8"},
        {"profile": {"smallest": "abc", "best": "abc", "largest": "abc"}},
        {"profile": {key: [-1, -1, -1] for key in ("smallest", "best", "largest")}},
        {"profile": {key: [1] for key in ("smallest", "best", "largest")}},
        {"profile": {key: [1, 10**9, 10**9] for key in ("smallest", "best", "largest")}},
        {"engine_sha256": 5},
        {"build_seconds": "x"},
        {"layers": [{"name": 1, "kind": 2}]},
        {"surprise": 1},
        {"spec": 5},
        {"spec": {"name": "x"}},
    ],
    ids=str,
)
def test_an_edited_passport_is_refused_and_listed_as_damaged(cache, stored, change):
    record = json.loads(passport_of(KEY).to_json())
    for field, value in change.items():
        (record["key"] if field in record["key"] else record)[field] = value
    passport_path(stored).write_text(json.dumps(record))
    with pytest.raises(ModelRefused, match="not the passport"):
        read_passport(stored)
    assert [engine.trouble for engine in cache.engines()] == ["damaged"]


def test_a_passport_that_is_no_file_is_refused_at_once(stored):
    passport = passport_path(stored)
    passport.unlink()
    os.mkfifo(passport)
    with pytest.raises(ModelRefused, match="not a file"):
        read_passport(stored)
    passport.unlink()
    passport.symlink_to("/dev/zero")
    with pytest.raises(ModelRefused, match="not a file"):
        read_passport(stored)
    passport.unlink()
    with passport.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ModelRefused, match="larger than"):
        read_passport(stored)
