"""Inputs to jobs: names, folders, globs, and collisions."""

import os
import re
from pathlib import Path

import pytest

from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.jobs.plan import Job, Naming, plan_jobs, refuse_clashes
from srgan_edge.video.endpoint import InputPipe, OutputPipe


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ["a.png", "b.JPG", "video.mp4", "clip.webm", "notes.txt", "deep/er/c.tif"]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def targets(inputs, output=None, **naming):
    naming = Naming(**{"suffix": "_x4"} | naming)
    jobs = plan_jobs(inputs, output, naming)
    return [str(job.target) for job in jobs]


def test_a_file_lands_beside_its_source(folder):
    assert targets(["in/a.png"]) == ["in/a_x4.png"]
    assert targets(["in/video.mp4"], suffix="-big") == ["in/video-big.mp4"]
    assert targets(["in/a.png", "in/video.mp4"], extension=".webp") == [
        "in/a.png_x4.webp", "in/video_x4.mp4",
    ]  # fmt: skip


def test_a_container_we_do_not_write_becomes_mkv(folder):
    assert targets(["in/clip.webm"]) == ["in/clip.webm_x4.mkv"]


def test_the_name_of_a_result_does_not_depend_on_the_other_inputs(folder):
    sources = ["in/a.ppm", "in/clip.avi", "in/clip.mkv", "in/clip.webm"]
    for source in sources:
        (folder / source).touch()
    together = targets(sources)
    assert together == [
        "in/a.ppm_x4.png", "in/clip.avi_x4.mkv", "in/clip_x4.mkv", "in/clip.webm_x4.mkv",
    ]  # fmt: skip
    assert [target for source in sources for target in targets([source])] == together
    in_png = targets(["in/a.ppm", "in/a.png", "in/b.JPG"], extension=".png")
    assert in_png == ["in/a.ppm_x4.png", "in/a_x4.png", "in/b.JPG_x4.png"]


def test_an_image_of_a_format_that_is_not_written_becomes_another(folder):
    for name in ("p.avif", "q.JP2", "r.tga", "s.jfif", "t.apng"):
        (folder / "in" / name).touch()
    assert targets(["in/p.avif", "in/q.JP2", "in/r.tga", "in/s.jfif", "in/t.apng"]) == [
        "in/p.avif_x4.png", "in/q.JP2_x4.png", "in/r.tga_x4.png", "in/s.jfif_x4.jpg",
        "in/t.apng_x4.png",
    ]  # fmt: skip
    assert targets(["in/p.avif"], extension=".webp") == ["in/p.avif_x4.webp"]


def test_hidden_files_are_no_inputs_of_a_folder(folder):
    (folder / "in" / ".a.partial-0123abcd.png").touch()
    assert not any("partial" in target for target in targets(["in"]))


def test_output_file_or_folder(folder):
    assert targets(["in/a.png"], "big.png") == ["big.png"]
    assert targets(["in/a.png"], "results/") == ["results/a_x4.png"]
    assert targets(["in/a.png"], "results") == ["results/a_x4.png"]
    assert targets(["in/a.png"], "x.png/") == ["x.png/a_x4.png"]
    assert targets(["in/a.png", "in/b.JPG"], "x.png/") == ["x.png/a_x4.png", "x.png/b_x4.JPG"]
    assert targets(["in/a.png", "in/b.JPG"], "out.d") == ["out.d/a_x4.png", "out.d/b_x4.JPG"]


def test_a_folder_keeps_its_tree_and_leaves_other_files_alone(folder):
    expected = ["a_x4.png", "b_x4.JPG", "clip.webm_x4.mkv", "deep/er/c_x4.tif", "video_x4.mp4"]
    assert targets(["in"], "out") == [f"out/{name}" for name in expected]
    assert targets(["in"]) == [f"{folder}/in_x4/{name}" for name in expected]


def test_globs_relative_and_absolute(folder):
    assert targets(["in/*.png"]) == ["in/a_x4.png"]
    assert targets(["in/**/*.tif"]) == ["in/deep/er/c_x4.tif"]
    assert targets([f"{folder}/in/?.png"], "out") == ["out/a_x4.png"]


def test_a_name_that_looks_like_a_glob_is_a_name_if_it_exists(folder):
    (folder / "odd[1].png").touch()
    assert targets(["odd[1].png"]) == ["odd[1]_x4.png"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["missing.png"], "missing.png: no such file"),
        (["in/*.gif"], "no image or video matches"),
        (["in/notes.txt"], "not an image or video by its name"),
        (["in/deep/er/../../../empty"], "no image or video in it"),
    ],
)
def test_missing_inputs_are_refused(folder, inputs, said):
    (folder / "empty").mkdir()
    with pytest.raises(InputRefused, match=said):
        plan_jobs(inputs, None, Naming("_x4"))


def test_a_video_by_the_name_of_a_descriptor_is_refused_with_one_that_works(folder):
    """Its decoder, another process, would open a file of its own by that name."""
    clip = folder / "in/video.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypmp42")
    expected = f"can open; type {re.escape(str(clip))}$"
    with clip.open() as file, pytest.raises(UsageError, match=expected):
        plan_jobs([f"/dev/fd/{file.fileno()}"], Path("out.mkv"), Naming("_x4"))


def test_a_pipe_by_a_name_is_refused_with_what_reads_pipes(folder):
    os.mkfifo(folder / "video")
    read_end, write_end = os.pipe()
    for name in (f"/dev/fd/{read_end}", str(folder / "video")):
        with pytest.raises(InputRefused, match=f"{name} is a pipe; type - and send one video"):
            plan_jobs([name], Path("out.mkv"), Naming("_x4"))
    os.close(read_end)
    os.close(write_end)


def test_what_a_stopped_run_left_is_no_input(folder):
    """`upscale *` again: the folder with its unfinished work, and the part of a damaged video."""
    (folder / "in/clip_x4.mkv.partial").mkdir()
    (folder / "in/clip_x4.mkv.partial/job.json").touch()
    for name in ("video_x4.partial.mp4", "video_x4.partial-2.mp4"):
        (folder / "in" / name).touch()
    named, lines = (
        sorted(str(path) for path in (folder / "in").iterdir() if path.name != "deep"),
        [],
    )
    named.remove(str(folder / "in/notes.txt"))
    jobs = plan_jobs(named, None, Naming("_x4"), say=lines.append)
    assert not any("partial" in str(job.source) for job in jobs)
    assert sum("unfinished work on clip_x4.mkv" in line for line in lines) == 1
    assert sum("by its name it is a result of" in line for line in lines) == 2


def test_a_pattern_makes_no_folder_called_like_a_file(folder):
    for pattern in ("in/a*.png", "in/[a].png", "in/*"):
        with pytest.raises(UsageError, match=r"-o big.png for .*; type the name of a folder"):
            plan_jobs([pattern], Path("big.png"), Naming("_x4"))
    assert targets(["in/[a].png"], "big.png/") == ["big.png/a_x4.png"]


def test_the_input_is_never_the_output(folder):
    (folder / "link.png").hardlink_to(folder / "in/a.png")
    (folder / "soft.png").symlink_to(folder / "in/a.png")
    for output in ("in/a.png", "in/../in/a.png", "link.png", "soft.png"):
        with pytest.raises(UsageError, match="is the input itself"):
            plan_jobs(["in/a.png"], Path(output), Naming("_x4"))
    with pytest.raises(UsageError, match="is the input itself"):
        plan_jobs(["in/a.png"], None, Naming(suffix=""))


def test_two_results_never_share_a_name(folder):
    (folder / "a.png").touch()
    with pytest.raises(UsageError, match="would both become"):
        plan_jobs(["in/a.png", "a.png"], Path("out"), Naming("_x4"))
    with pytest.raises(UsageError, match=r"^a\.png is named twice; name it once$"):
        plan_jobs(["a.png", "a.png"], Path("out"), Naming("_x4"))
    for name in ("a.avif", "a.avif.png"):
        (folder / "in" / name).touch()
    with pytest.raises(UsageError, match="would both become"):
        plan_jobs(["in"], None, Naming("_x4"))


def test_a_result_never_replaces_another_input(folder):
    (folder / "in/b_x4.JPG").touch()
    with pytest.raises(UsageError, match=r"b_x4.JPG is an input, and --overwrite .* in/b.JPG"):
        plan_jobs(["in/b.JPG", "in/b_x4.JPG"], None, Naming("_x4"), overwrite=True)
    (folder / "in/b_x4.JPG").unlink()
    (folder / "in/b_x4.JPG").symlink_to(folder / "in/a.png")
    with pytest.raises(UsageError, match=r"a.png is an input, and --overwrite"):
        plan_jobs(["in/b.JPG", "in/a.png"], None, Naming("_x4"), overwrite=True)


def test_results_of_an_earlier_run_are_no_inputs(folder):
    (folder / "in/a_x4.png").touch()
    said = []
    jobs = plan_jobs(["in/*.png"], None, Naming("_x4"), say=said.append)
    assert [str(job.source) for job in jobs] == ["in/a.png"]
    assert said == ["left out in/a_x4.png: it is the result of in/a.png"]


@pytest.mark.parametrize(
    ("result", "origin"),
    [
        ("in/a_x2.png", "in/a.png"),
        ("in/a_x1.5.png", "in/a.png"),
        ("in/a_x4.jpg", "in/a.png"),
        ("in/video_x3.mkv", "in/video.mp4"),
        ("in/clip.webm_x2.mkv", "in/clip.webm"),
    ],
)
@pytest.mark.parametrize("output", [None, "out"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_results_at_another_scale_are_no_inputs(folder, result, origin, output, overwrite):
    (folder / result).touch()
    said = []
    output = output and Path(output)
    jobs = plan_jobs(["in"], output, Naming("_x8"), overwrite=overwrite, say=said.append)
    assert result not in [str(job.source) for job in jobs]
    assert (
        f"left out {result}: by its name it is a result of {origin}; to upscale it, name it "
        in (said[-1])
    )
    (alone,) = plan_jobs([result], output, Naming("_x8"))
    assert str(alone.source) == result


def test_the_folder_of_an_earlier_run_is_no_input(folder):
    """`upscale in` wrote in_x4/ beside it, and now the folder above both is named."""
    for made in ("in_x4/a_x4.png", "in_x2/a_x2.png"):
        (folder / made).parent.mkdir(exist_ok=True)
        (folder / made).touch()
    said = []
    sources = {str(job.source) for job in plan_jobs(["."], None, Naming("_x4"), say=said.append)}
    assert sources & {"in/a.png", "in_x4/a_x4.png", "in_x2/a_x2.png"} == {"in/a.png"}
    assert "left out in_x4/a_x4.png: by its name it is a result of in/a.png; " in "".join(said)


@pytest.mark.parametrize("name", ["record", "record.raw", "line\nline"])
@pytest.mark.parametrize("text", ["in", "in/*"])
def test_results_of_files_without_a_known_suffix_are_no_inputs(folder, name, text):
    """In a folder, such files are passed over; each named alone is read, by its content."""
    original, result = folder / "in" / name, folder / "in" / f"{name}_x4.mkv"
    original.write_bytes(b"\x1a\x45\xdf\xa3")
    result.touch()
    said = []
    jobs = plan_jobs([text], None, Naming("_x2"), say=said.append)
    assert not {original, result} & {Path(job.source).absolute() for job in jobs}
    assert sum("by its name it is a result of" in line for line in said) == 1
    for alone in (original, result):
        (job,) = plan_jobs([str(alone)], None, Naming("_x4"))
        assert job.source == alone
    original.write_bytes(b"no video")
    jobs = plan_jobs([text], None, Naming("_x2"))
    assert result in {Path(job.source).absolute() for job in jobs}


def test_a_folder_with_nothing_but_such_results_is_refused(folder):
    (folder / "made").mkdir()
    (folder / "made/record").write_bytes(b"\x1a\x45\xdf\xa3")
    (folder / "made/record_x4.mkv").touch()
    with pytest.raises(InputRefused, match=r"made: only results of an earlier run; to upscale one"):
        plan_jobs(["made"], None, Naming("_x4"))


def test_results_of_names_of_two_lines_are_no_inputs(folder):
    for name in ("line\nline.mkv", "line\nline_x4.mkv"):
        (folder / "in" / name).touch()
    jobs = plan_jobs(["in"], Path("out"), Naming("_x4"))
    assert [it.source.name for it in jobs if "\n" in it.source.name] == ["line\nline.mkv"]


@pytest.mark.parametrize("name", ["in/other_x2.png", "in/a_x2.mkv", "in/a_xl.png", "in/_x4.png"])
def test_a_name_like_a_result_without_its_source_is_an_input(folder, name):
    (folder / name).touch()
    assert name in [str(job.source) for job in plan_jobs(["in"], None, Naming("_x8"))]


@pytest.mark.parametrize("name", ["video_x4.partial.mkv", "video_x4.mkv.partial"])
def test_what_a_video_may_leave_behind_is_no_input(folder, name):
    (folder / "video.mkv").touch()
    (folder / name).touch()
    (folder / "link.mkv").symlink_to(folder / name)
    with pytest.raises(UsageError, match=r"video_x4.*partial.*is link.mkv, another input"):
        plan_jobs(["video.mkv", "link.mkv"], None, Naming("_x4"))


def test_a_broken_download_is_not_its_own_partial_result(folder):
    (folder / "video.partial.mkv").touch()
    with pytest.raises(UsageError, match=r"video.partial.mkv.* is the input itself; name another"):
        plan_jobs(["video.partial.mkv"], Path("video.mkv"), Naming("_x4"))


def test_no_other_file_of_the_command_is_an_input_or_a_result(folder):
    jobs = plan_jobs(["in/a.png", "in/video.mp4"], None, Naming("_x4"))
    refuse_clashes(jobs, {"--report": folder / "report.json"})
    for name, what in {
        "in/a.png": "is an input itself",
        "in/a_x4.png": "is the result of in/a.png",
        "in/../in/video_x4.partial.mp4": "is the result of in/video.mp4",
    }.items():
        with pytest.raises(UsageError, match=what):
            refuse_clashes(jobs, {"--report": folder / name})


def test_a_redirected_stream_is_the_file_that_it_stands_for(folder):
    """`upscale a.mkv -o - >> a.mkv` and `upscale - -o a.mkv --overwrite < a.mkv` are refused."""
    path = folder / "in/video.mp4"
    descriptor = os.open(path, os.O_RDWR)
    try:
        written = OutputPipe("matroska", descriptor)
        with pytest.raises(UsageError, match=r"standard output is .*video.mp4, the input itself"):
            refuse_clashes([Job(path, Path(written.name), "video", None, written)])
        source = Path("standard input")
        refuse_clashes([Job(source, folder / "out.mkv", "video", InputPipe(descriptor))])
        with pytest.raises(UsageError, match=r"video.mp4.* is the input itself"):
            refuse_clashes([Job(source, path, "video", InputPipe(descriptor))])
        jobs = plan_jobs(["in/video.mp4"], None, Naming("_x4"))
        with pytest.raises(UsageError, match=r"--json-events .* is an input itself"):
            refuse_clashes(jobs, {"--json-events": Path(f"/dev/fd/{descriptor}")})
    finally:
        os.close(descriptor)


def test_numbers_are_in_their_own_order(folder):
    for name in ("10.png", "2.png", "1.png", "b2/1.png", "b10/1.png"):
        path = folder / "many" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expected = ["1.png", "2.png", "10.png", "b2/1.png", "b10/1.png"]
    jobs = plan_jobs(["many"], Path("out"), Naming("_x4"))
    assert [str(job.source) for job in jobs] == [f"many/{name}" for name in expected]
    jobs = plan_jobs(["many/*.png"], Path("out"), Naming("_x4"))
    assert [job.source.name for job in jobs] == ["1.png", "2.png", "10.png"]


def test_a_folder_names_the_files_that_it_passes_over(folder):
    (folder / "in/Makefile").touch()
    (folder / "in/more.TXT").touch()
    os.mkfifo(folder / "in/pipe.mp4")
    said = []
    plan_jobs(["in"], None, Naming("_x4"), say=said.append)
    assert said == [
        "in: passed over 4 files that are no images or videos: 2 .txt, 1 no suffix, "
        "1 of another kind",
    ]


def test_a_link_without_a_file_is_a_job_that_will_say_so(folder):
    (folder / "in/clip.mp4").symlink_to("missing.mp4")
    for pattern in ("in", "in/*.mp4"):
        jobs = plan_jobs([pattern], Path("out"), Naming("_x4"))
        assert "in/clip.mp4" in [str(job.source) for job in jobs]


def test_a_folder_names_links_to_folders(folder):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "b.png").touch()
    (folder / "in/linked").symlink_to(folder / "elsewhere")
    said = []
    jobs = plan_jobs(["in"], None, Naming("_x4"), say=said.append)
    assert said[0] == (
        "in: links to folders are not followed (1, the first is in/linked); name those folders, too"
    )
    assert "b.png" not in [job.source.name for job in jobs]


@pytest.mark.parametrize("length", [251, 255])
def test_a_name_without_room_for_more_is_a_job_like_others(folder, length):
    """Its result cannot be written, which is for the job to find out: others can."""
    (folder / f"{'a' * (length - 4)}.png").touch()
    (folder / "b.png").touch()
    assert len(plan_jobs(["*.png"], None, Naming("_x4"))) == 2


def test_an_input_in_the_work_folder_of_a_result_is_refused(tmp_path):
    """The folder would be removed with it."""
    source = tmp_path / "out.mkv.partial" / "segment-000000.nut"
    source.parent.mkdir()
    source.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"is in out\.mkv\.partial, which is removed at the end"):
        refuse_clashes([Job(source, tmp_path / "out.mkv", "video")])
    refuse_clashes([Job(source, tmp_path / "other.mkv", "video")])
