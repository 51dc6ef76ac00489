"""The output name is absent or whole, whatever happens in between."""

import errno
import os
import resource
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from srgan_edge.errors import InputDamaged, InputRefused, ModelRefused, OutputFailed, UsageError
from srgan_edge.files import (
    files_below,
    folder_made,
    folder_when_whole,
    free_name,
    free_partial_result,
    identity_of,
    is_file,
    is_taken,
    read_at_most,
    refuse_irreplaceable,
    refuse_replacing,
    replace_when_whole,
    scratch_folder,
)


def test_name_appears_only_when_whole(tmp_path: Path):
    path = tmp_path / "clip.mkv"
    with replace_when_whole(path) as partial:
        assert partial.parent == tmp_path and partial.suffix == ".mkv"
        assert partial.name.startswith(".clip.") and partial.exists()
        partial.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [path]


def test_older_output_is_replaced_at_the_end(tmp_path: Path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    with replace_when_whole(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [InputDamaged("torn"), KeyboardInterrupt(), ZeroDivisionError()])
def test_failure_passes_and_leaves_everything_as_it_was(tmp_path: Path, error: BaseException):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), replace_when_whole(path) as partial:
        partial.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_os_error_in_the_body_names_the_output(tmp_path: Path):
    path = tmp_path / "out.png"
    with (
        pytest.raises(OutputFailed, match=r"out\.png: No space left on device; free some space"),
        replace_when_whole(path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_file_size_limit_really_reached(tmp_path: Path):
    path = tmp_path / "out.bin"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that write() returns EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with (
            pytest.raises(OutputFailed, match=r"too large; raise the limit \(ulimit -f\)"),
            replace_when_whole(path) as partial,
        ):
            partial.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_refused_before_the_work(tmp_path: Path):
    with (
        pytest.raises(OutputFailed, match="No such file or directory; create the folder"),
        replace_when_whole(tmp_path / "missing" / "out.png"),
    ):
        pytest.fail("the body ran")


def test_file_for_a_folder_is_refused_before_the_work(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputFailed, match="Not a directory"),
        replace_when_whole(tmp_path / "file" / "out.png"),
    ):
        pytest.fail("the body ran")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_is_refused_before_the_work(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with (
            pytest.raises(OutputFailed, match="Permission denied"),
            replace_when_whole(tmp_path / "out.png"),
        ):
            pytest.fail("the body ran")
    finally:
        tmp_path.chmod(0o700)


def test_folder_and_fifo_are_refused_and_kept(tmp_path: Path):
    folder, fifo = tmp_path / "folder.png", tmp_path / "fifo.png"
    folder.mkdir()
    os.mkfifo(fifo)
    for path, reason in [(folder, "it is a folder"), (fifo, "not a regular file")]:
        with pytest.raises(OutputFailed, match=reason), replace_when_whole(path):
            pytest.fail("the body ran")
    assert folder.is_dir() and fifo.is_fifo()
    assert len(list(tmp_path.iterdir())) == 2


def test_link_is_replaced_and_its_target_kept(tmp_path: Path):
    original, link = tmp_path / "photo.png", tmp_path / "out.png"
    original.write_bytes(b"photo")
    link.symlink_to(original)
    with replace_when_whole(link) as partial:
        partial.write_bytes(b"new")
    assert original.read_bytes() == b"photo"
    assert link.read_bytes() == b"new" and not link.is_symlink()


def test_permissions_follow_the_umask(tmp_path: Path):
    path = tmp_path / "out.png"
    before = os.umask(0o027)
    try:
        with replace_when_whole(path) as partial:
            partial.write_bytes(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_longest_possible_name(tmp_path: Path):
    path = tmp_path / ("ü" * 125 + ".mkv")  # 254 of 255 bytes
    with replace_when_whole(path) as partial:
        partial.write_bytes(b"x")
    assert path.exists()


def test_a_folder_appears_only_when_whole(tmp_path: Path):
    path = tmp_path / "not" / "there" / "model"
    with folder_when_whole(path, "--to", "mark", overwrite=False) as partial:
        (partial / "1").mkdir()
        (partial / "1" / "plan").write_bytes(b"half")
        assert partial.parent == path.parent and not path.exists()
    assert (path / "1" / "plan").read_bytes() == b"half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [InputDamaged("torn"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, error: BaseException):
    for overwrite in (False, True):
        before = snapshot(tmp_path)
        with (
            pytest.raises(type(error)),
            folder_when_whole(tmp_path / "model", "--to", "mark", overwrite=overwrite) as partial,
        ):
            (partial / "plan").write_bytes(b"half")
            raise error
        assert snapshot(tmp_path) == before
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "mark").write_text("older")


def test_a_folder_that_stays_empty_goes_and_what_was_there_stays(tmp_path: Path):
    (tmp_path / "old").mkdir()
    with folder_made(tmp_path / "old" / "a" / "b"):
        assert (tmp_path / "old" / "a" / "b").is_dir()
    assert snapshot(tmp_path) == {} and [*tmp_path.rglob("*")] == [tmp_path / "old"]
    with pytest.raises(ZeroDivisionError), folder_made(tmp_path / "new" / "a"):
        (tmp_path / "new" / "kept").touch()
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["kept"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"), folder_made(tmp_path / "file" / "a"):
        pytest.fail("the body has run")
    with (
        pytest.raises(ZeroDivisionError),
        folder_when_whole(tmp_path / "more" / "a" / "b", "--to", "mark", overwrite=False),
    ):
        raise ZeroDivisionError
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("rights", [0o600, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_rights(tmp_path: Path, rights: int):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"old")
    path.chmod(rights)
    with replace_when_whole(path) as partial:
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == rights
    link = tmp_path / "link.safetensors"  # becomes a file of its own
    link.symlink_to(path)
    with replace_when_whole(link):
        pass
    (tmp_path / "other").touch()
    assert link.stat().st_mode == (tmp_path / "other").stat().st_mode


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of 200 kB, which only root can mount."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def nobodys(tmp_path_factory) -> Iterator[Path]:
    """A folder of an ordinary user, as whom the test runs if it was root."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        try:
            if user == 0:
                os.chown(path, 65534, 65534)
                os.seteuid(65534)
            yield path
        finally:
            os.seteuid(user)


def test_a_folder_that_cannot_be_read_is_not_passed_over(nobodys: Path):
    """Its files would be missing from the results, with exit code 0."""
    (nobodys / "a.png").touch()
    (nobodys / "deep" / "closed").mkdir(parents=True)
    (nobodys / "deep" / "closed" / "b.png").touch()
    names = {path.name for path in files_below(nobodys)}
    assert names == {"a.png", "b.png"}
    (nobodys / "deep" / "closed").chmod(0)
    with pytest.raises(InputRefused, match=r"cannot read .*deep/closed: Permission denied"):
        list(files_below(nobodys))
    (nobodys / "deep" / "closed").chmod(0o700)


def test_a_file_of_somebody_else_in_a_sticky_folder_is_refused_before_the_work(nobodys: Path):
    if os.getuid() != 0:
        pytest.skip("needs a file of somebody else")
    path, mine = nobodys / "out.png", nobodys / "mine.png"
    mine.touch()
    os.seteuid(0)
    path.touch()
    os.chown(nobodys, 0, 0)
    nobodys.chmod(0o1777)
    os.seteuid(65534)
    refuse_irreplaceable(mine)
    with pytest.raises(OutputFailed, match="somebody else"), replace_when_whole(path):
        pytest.fail("the body ran")


def test_a_file_that_was_mounted_is_refused_before_the_work(tmp_path: Path):
    path = tmp_path / "out.png"
    path.touch()
    with small_disk(tmp_path / "disk") as disk:
        (disk / "file").touch()
        if subprocess.run(["mount", "--bind", disk / "file", path], capture_output=True).returncode:
            pytest.skip("needs to mount a file")
        try:
            with pytest.raises(OutputFailed, match="it is mounted"), replace_when_whole(path):
                pytest.fail("the body ran")
        finally:
            subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("mark", ["i", "a"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_place_marked_as_fixed_is_refused_before_the_work(tmp_path: Path, what: str, mark: str):
    path = tmp_path / "place" / "out.png"
    path.parent.mkdir()
    path.touch()
    marked = path if what == "file" else path.parent
    if subprocess.run(["chattr", f"+{mark}", marked], capture_output=True).returncode:
        pytest.skip("needs root, and a file system with such marks")
    try:
        said = rf"marked .*\(chattr -{mark} undoes it\); name another"
        with pytest.raises(OutputFailed, match=said), replace_when_whole(path):
            pytest.fail("the body ran")
        if what == "folder":
            folder = path.parent / "new"
            with (
                pytest.raises(OutputFailed, match=said),
                folder_when_whole(folder, "-o", "known", overwrite=True),
            ):
                pytest.fail("the body ran")
    finally:
        subprocess.run(["chattr", f"-{mark}", marked], check=True)
    with replace_when_whole(path):
        pass


def test_a_full_scratch_folder_names_the_variable(tmp_path: Path, monkeypatch):
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with (
            pytest.raises(OutputFailed, match=r"cannot write .*disk: No space left .*TMPDIR"),
            scratch_folder() as folder,
        ):
            assert subprocess.run(["sh", "-c", f"head -c 1M /dev/zero > {folder}/a"]).returncode
            raise ModelRefused("the program that was started cannot convert it")
        assert list(disk.iterdir()) == []
        with pytest.raises(ModelRefused, match=r"^for another reason$"), scratch_folder():
            raise ModelRefused("for another reason")
        too_large = OSError(errno.EFBIG, "File too large")  # beyond `ulimit -f`
        with pytest.raises(OutputFailed, match=r"File too large; .*TMPDIR"), scratch_folder():
            raise too_large
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    missing = r"no folder for temporary files: No such.*TMPDIR"
    with pytest.raises(OutputFailed, match=missing), scratch_folder():
        pytest.fail("the body has run")


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_of_an_older_folder_are_replaced_only_if_it_is_ours(tmp_path: Path):
    path = tmp_path / "model"
    for number in ("1", "2"):
        (path / number).mkdir(parents=True)
        (path / number / "weights").write_text("older")

    def write(*inputs: Path, deeper: str = "1") -> None:
        with folder_when_whole(path, "--to", "mark", inputs, overwrite=True) as partial:
            (partial / "mark").write_text("new")
            (partial / deeper).mkdir()
            (partial / deeper / "weights").write_text("new")

    with pytest.raises(UsageError, match="no folder with a mark, so it is kept"):
        write()
    (path / "mark").write_text("older")
    (tmp_path / "link").symlink_to(path / "1" / "weights")
    with pytest.raises(UsageError, match="has an input itself"):
        write(tmp_path / "link")
    (path / "3" / "weights").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"3/weights is a folder, so it is kept; .* --to"):
        write(deeper="3")
    assert set(snapshot(path).values()) == {b"older"}
    (path / "mark").chmod(0o640)
    write()
    write(deeper="4")
    assert {str(file.relative_to(path)): it for file, it in snapshot(path).items()} == {
        "mark": b"new",
        "1/weights": b"new",
        "2/weights": b"older",
        "4/weights": b"new",
    }
    assert stat.S_IMODE((path / "mark").stat().st_mode) == 0o640
    assert {it.name for it in tmp_path.iterdir()} == {"model", "link"}


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["folder", "file"])
def test_what_is_there_is_not_made_a_folder(tmp_path: Path, make: Callable[[Path], None]):
    path = tmp_path / "a model"
    make(path)
    with (
        pytest.raises(UsageError, match=r"a model exists; type --overwrite .* with --to$"),
        folder_when_whole(path, "--to", "mark", overwrite=False),
    ):
        pytest.fail("the body has run")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputFailed, match=r"cannot write .*; name another place with --to"),
        folder_when_whole(tmp_path / "file" / "model", "--to", "mark", overwrite=False),
    ):
        pytest.fail("the body has run")


def test_a_file_that_appears_in_the_meantime_is_kept(tmp_path: Path, monkeypatch):
    path = tmp_path / "out.png"

    def write() -> None:
        with replace_when_whole(path, overwrite=False) as partial:
            partial.write_bytes(b"new")
            path.write_bytes(b"somebody's")

    for has_links in (True, False):
        if not has_links:
            monkeypatch.setattr(os, "link", refusing_links)
        path.unlink(missing_ok=True)
        with pytest.raises(OutputFailed, match="appeared during the work and is kept"):
            write()
        assert path.read_bytes() == b"somebody's"
        assert list(tmp_path.iterdir()) == [path]


def refusing_links(source: Path, target: Path) -> None:
    raise PermissionError(errno.EPERM, "as FAT does")


def test_a_free_name_is_taken_without_hard_links_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "link", refusing_links)
    with replace_when_whole(tmp_path / "out.png", overwrite=False) as partial:
        partial.write_bytes(b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_names_of_one_file_have_one_identity(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, folder = tmp_path / "a", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    (tmp_path / "hard").hardlink_to(file)
    (tmp_path / "soft").symlink_to("a")
    (tmp_path / "linked").symlink_to(folder)
    names = [file, Path("a"), Path("folder/../a"), tmp_path / "hard", tmp_path / "soft"]
    assert len({identity_of(name) for name in names}) == 1
    absent = [folder / "new", Path("linked/new"), Path("folder/../linked/new")]
    assert len({identity_of(name) for name in absent}) == 1
    others = [file, folder / "new", folder / "newer", tmp_path / "no/folder", Path("a" * 300)]
    assert len({identity_of(name) for name in others}) == len(others)


def test_nothing_is_replaced_unasked_and_an_input_never(tmp_path: Path):
    source, result = tmp_path / "a", tmp_path / "b"
    source.touch()
    refuse_replacing(result, [source], overwrite=False)
    result.symlink_to("nowhere")  # what is at the end of a link may be elsewhere for now
    with pytest.raises(
        UsageError, match=r"b exists; type --overwrite to replace it, or .* with -x"
    ):
        refuse_replacing(result, [source], overwrite=False, option="-x")
    refuse_replacing(result, [source], overwrite=True)
    (tmp_path / "again").symlink_to(source)
    for name in (source, tmp_path / "again"):
        with pytest.raises(UsageError, match="is an input itself; name another file with -o"):
            refuse_replacing(name, [source], overwrite=True)
    with pytest.raises(OutputFailed, match="File name too long"):
        refuse_replacing(tmp_path / ("a" * 300), overwrite=False)


@pytest.mark.parametrize(
    ("taken", "free"),
    [
        ([], "a.mkv"),
        (["a.mkv", "a-2.mkv"], "a-3.mkv"),
        (["a.partial.mkv"], "a-2.mkv"),
        (["a.mkv.partial"], "a-2.mkv"),
    ],
)
def test_a_name_to_advise_is_free_with_all_that_is_written_beside_it(tmp_path: Path, taken, free):
    for name in taken:
        (tmp_path / name).symlink_to("nothing")
    assert free_name(tmp_path / "a.mp4", ".mkv") == tmp_path / free


def test_partial_results_do_not_replace_one_another(tmp_path: Path):
    target = tmp_path / "a.mkv"
    names = []
    for _ in range(3):
        names.append(free_partial_result(target, overwrite=False))
        names[-1].touch()
    assert [name.name for name in names] == [
        "a.partial.mkv",
        "a.partial-2.mkv",
        "a.partial-3.mkv",
    ]
    assert free_partial_result(target, overwrite=True) == names[0]


def test_reading_a_small_model_reserves_no_more_than_its_size(tmp_path: Path):
    (tmp_path / "model").write_bytes(b"weights")
    assert read_at_most(tmp_path / "model", 1 << 50) == b"weights"


@pytest.mark.parametrize("exchange", [Path.symlink_to, Path.hardlink_to])
def test_a_link_in_place_of_the_file_is_not_published(
    tmp_path: Path, exchange: Callable[[Path, Path], None]
):
    (tmp_path / "key").write_text("secret")
    with (
        pytest.raises(OutputFailed, match="is not the file that was made there"),
        replace_when_whole(tmp_path / "out.mkv") as partial,
    ):
        partial.unlink()
        exchange(partial, tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").read_text() == "secret"


@pytest.mark.parametrize("name", ["new/../in.png", "new/newer/../../in.png"])
def test_a_name_through_folders_that_are_made_later_is_that_of_a_file(tmp_path, name):
    """Otherwise a result could overwrite its own input once the missing folders are created."""
    (tmp_path / "in.png").write_bytes(b"mine")
    assert identity_of(tmp_path / name) == identity_of(tmp_path / "in.png")
    assert is_taken(tmp_path / name) and is_file(tmp_path / name)
    assert not is_taken(tmp_path / name.replace("in.png", "out.png"))
    with pytest.raises(UsageError):
        refuse_replacing(tmp_path / name, [tmp_path / "in.png"], overwrite=True, makes_folder=True)
