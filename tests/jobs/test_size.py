"""Results of a size in pixels: which one they have, and what is refused with advice that works."""

import re
from fractions import Fraction

import pytest

from srgan_edge.errors import UsageError
from srgan_edge.jobs.plan import Naming, plan_jobs
from srgan_edge.jobs.size import Source, WantedSize

VIDEO = Source(320, 180, is_video=True)
PHONE = Source(1920, 1080, lies_on_side=True, is_video=True)
PAL = Source(720, 576, Fraction(64, 45), is_video=True)


def wanted(text):
    option, value = text.split()
    typed = {"--width": None, "--height": None, "--fit": None}
    typed[option] = value if option == "--fit" else int(value)
    return WantedSize.of(*typed.values())


@pytest.mark.parametrize(
    ("text", "source", "size"),
    [
        ("--height 720", VIDEO, (1280, 720)),
        ("--height 720", Source(320, 180), (1280, 720)),
        ("--height 362", VIDEO, (644, 362)),  # 643.6
        ("--height 361", Source(320, 180), (642, 361)),  # 641.8: images may be odd
        ("--height 180", VIDEO, (320, 180)),
        ("--width 1920", VIDEO, (1920, 1080)),
        ("--fit 4k", VIDEO, (3840, 2160)),
        ("--fit 1080P", Source(400, 180), (1920, 864)),
        ("--fit 1080p", Source(180, 400), (864, 1920)),  # turned with the source
        ("--fit 1920x1080", Source(180, 400), (486, 1080)),  # and not if it was typed in pixels
        ("--fit 1001x1001", VIDEO, (1000, 562)),
        ("--height 3840", PHONE, (3840, 2160)),  # shown 2160x3840
        ("--fit 4k", PHONE, (3840, 2160)),
        ("--width 2048", PAL, (1440, 1152)),  # shown 2048x1152
    ],
)
def test_the_result_has_the_size_that_was_asked_for(text, source, size):
    assert wanted(text).result(source) == size


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("--height 361", VIDEO),
        ("--height 100", VIDEO),
        ("--width 300", VIDEO),
        ("--fit 720p", PHONE),
        ("--height 100000", VIDEO),
        ("--fit 8k", Source(100, 90)),
        ("--height 99999", VIDEO),
        ("--height 20", Source(45, 33, is_video=True)),
        ("--height 9999", Source(45, 33, is_video=True)),
        ("--width 531", Source(83, 40, Fraction(2, 5), is_video=True)),  # shown 33.2x40
        ("--width 9", Source(83, 40, Fraction(2, 5), is_video=True)),
        ("--width 9999", Source(83, 40, Fraction(2, 5), is_video=True)),
        ("--fit 9x9", Source(83, 39, Fraction(2, 5), is_video=True)),
        ("--width 0", VIDEO),
        ("--fit 4q", VIDEO),
    ],
)
def test_advice_works(text, source):
    with pytest.raises(UsageError, match=r"(possible:|type) ") as refused:
        wanted(text).result(source)
    option = text.split()[0]
    advice = re.findall(
        r"(?:type|possible:|to) (?:--\w+ )?(\d+(?:x\d+)?|\dk)\b", str(refused.value)
    )
    for value in advice or ["4k" if option == "--fit" else "640"]:
        wanted(f"{option} {value}").result(source)


def test_one_of_them():
    with pytest.raises(UsageError, match="--width 5 and --fit 4k; possible: one of them"):
        WantedSize.of(5, None, "4k")
    assert WantedSize.of(None, None, None) is None


@pytest.mark.parametrize("text", ["--height 2160", "--width 3840", "--fit 4k", "--fit 99x9"])
def test_results_are_named_after_their_size_and_not_upscaled_again(tmp_path, text):
    suffix = wanted(text).suffix
    for name in ("a.png", f"a{suffix}.png"):
        (tmp_path / name).write_bytes(b"")
    remarks = []
    jobs = plan_jobs([f"{tmp_path}/*.png"], None, Naming("_x4"), say=remarks.append)
    assert [job.source.name for job in jobs] == ["a.png"]
    assert "it is a result of" in remarks[0]
