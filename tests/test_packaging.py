"""What is published is what is here: no package, weight or demo file is forgotten on the way."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["setuptools"]["packages"]
PACKAGE_DATA = PYPROJECT["tool"]["setuptools"]["package-data"]
DEMO = ROOT / "srgan_edge" / "demo"


def folder_of(package: str) -> Path:
    """Where a package lies in the checkout: `srgan_edge.train` is `train/`."""
    mapped = PYPROJECT["tool"]["setuptools"]["package-dir"].get(package)
    return ROOT / (mapped or package.replace(".", "/"))


def data_files(package: str) -> set[Path]:
    """What the package's globs find, relative to its folder."""
    folder = folder_of(package)
    globs = PACKAGE_DATA.get(package, [])
    return {
        path.relative_to(folder) for glob in globs for path in folder.glob(glob) if path.is_file()
    }


def published_files() -> set[str]:
    """Every file of the four packages, under the name it has in the wheel."""
    published = set()
    for package in PACKAGES:
        modules = {path.relative_to(folder_of(package)) for path in folder_of(package).glob("*.py")}
        published |= {
            f"{package.replace('.', '/')}/{path.as_posix()}"
            for path in modules | data_files(package)
        }
    return published


def test_every_package_is_listed() -> None:
    found = {
        init.parent.relative_to(ROOT)
        for top in ("srgan_edge", "train", "export", "kernels")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert {folder_of(package).relative_to(ROOT) for package in PACKAGES} == found


@pytest.mark.parametrize(
    ("package", "glob"),
    [(package, glob) for package in PACKAGE_DATA for glob in PACKAGE_DATA[package]],
)
def test_every_glob_finds_something(package: str, glob: str) -> None:
    assert list(folder_of(package).glob(glob))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_of_a_package_is_left_out(package: str) -> None:
    folder = folder_of(package)
    inner = [folder_of(other) for other in PACKAGES if folder in folder_of(other).parents]
    left_out = {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any(other in path.parents for other in inner)
        and "unfinished" not in path.parts  # weights that are not released are not published
    } - data_files(package)
    assert left_out == set()


def test_the_runtime_is_installed_without_torch() -> None:
    assert not [line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch")]


@pytest.mark.slow
def test_the_wheel_holds_exactly_these_files(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build writes into its tree, and takes what older ones left
    for folder in ("srgan_edge", "train", "export", "kernels"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert names - metadata == published_files()
    assert {Path(name).name for name in metadata} >= {"LICENSE", "NOTICE", "entry_points.txt"}


def test_the_demo_clip_is_small_tagged_and_has_audio() -> None:
    path = DEMO / "clip.mp4"
    assert path.stat().st_size < 400_000
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        color = video.codec_context
        assert (video.width, video.height, video.frames) == (320, 180, 75)
        tags = (color.colorspace, color.color_primaries, color.color_trc, color.color_range)
        assert tags == (1, 1, 1, 1)  # BT.709 three times, limited range (ITU-T H.273)
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(audio)], axis=1)
    assert samples.std() > 0.01
    assert 3.0 <= samples.shape[1] / 48_000 < 3.1


def test_the_demo_photo_is_small() -> None:
    path = DEMO / "photo.png"
    assert path.stat().st_size < 80_000
    with Image.open(path) as photo:
        assert (photo.mode, photo.size) == ("RGB", (240, 180))
