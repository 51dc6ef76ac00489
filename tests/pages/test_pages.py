"""Commands are found in a page of a few lines, and changed as a table says."""

import re
from pathlib import Path

import pytest
from page_commands import commands_of
from run_pages import ROOT, Change, plan, verb_of

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
PAGE = """# A title

Prose with `srgan-edge info edge-x4`, with `srgan-edge
check` over two lines, and with `other code`.

    pip install '.[train]'
    srgan-edge train --data photos/  # not this
    ffmpeg -i a.vob - | srgan-edge upscale - -o - | mpv -
    a folder that is output

* A list, whose second line is indented,
    srgan-edge is not a command here

    $ srgan-edge doctor
     srgan-edge   ok
    tensorboard   ok

    make demo
    $ srgan-edge eval 'Set #5' \\
        --bicubic

```
srgan-edge/   a tree
```

```python
import ncnn
ncnn.Net()
```
"""


def test_commands_of_a_page() -> None:
    assert [(command.line, command.kind, command.text) for command in commands_of(PAGE)] == [
        (3, "inline", "srgan-edge info edge-x4"),
        (3, "inline", "srgan-edge check"),
        (6, "block", "pip install '.[train]'"),
        (7, "block", "srgan-edge train --data photos/"),
        (8, "block", "ffmpeg -i a.vob - | srgan-edge upscale - -o - | mpv -"),
        (14, "block", "srgan-edge doctor"),
        (18, "block", "make demo"),
        (19, "block", "srgan-edge eval 'Set #5' --bicubic"),
        (27, "python", "import ncnn\nncnn.Net()"),
    ]


def test_a_fence_that_is_open_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 1"):
        commands_of("```\nsrgan-edge doctor\n")


def test_installations_come_first_and_nothing_twice() -> None:
    steps = plan("p.md", commands_of("    a\n\n    cat b\n    pip install c\n    cat  b\n"), [])
    assert [step.text for step in steps] == ["pip install c", "cat b"]


def test_all_changes_that_match_apply_in_order() -> None:
    changes = [
        Change("mpv -", "no mpv", put="cat"),
        Change("cat", "a file", add="> seen", exit=4),
        Change("cat", "elsewhere", page="other.md", skip=True),
        Change("srgan-edge train", "nothing trains here"),
        Change("srgan-edge upscale -", "not all of it", whole=True, skip=True),
    ]
    (step,) = plan("p.md", commands_of("    srgan-edge upscale - | mpv -\n"), changes)
    assert (step.text, step.exit, step.skipped) == ("srgan-edge upscale - | cat > seen", 4, "")
    assert [change.used for change in changes] == [True, True, False, False, False]


def test_what_is_not_run_has_its_reason() -> None:
    (step,) = plan("p.md", commands_of("    make gpu\n"), [Change("make", "a GPU", skip=True)])
    assert step.skipped == "a GPU"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cat a | srgan-edge upscale - | srgan-edge check a b", {"upscale", "check"}),
        ("srgan-edge data check photos/", {"data check"}),
        ("torchrun -m srgan_edge train --data a", {"train"}),
        ("srgan-edge  export a.safetensors", {"export"}),
        ("srgan-edge verify-tiles a", {"verify-tiles"}),
        ("srgan-edge --version", set()),
    ],
)
def test_verbs_of_a_command(text: str, found: set[str]) -> None:
    verbs = ["upscale", "check", "data check", "train", "export", "verify", "verify-tiles"]
    assert verb_of(text, verbs) == found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    code = re.findall(
        r"`((?:srgan_edge|train|export|kernels|tests|benchmarks|docs)/[\w./-]+)`", text
    )
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in code if not (ROOT / name).exists() and "NAME" not in name]
    assert missing == []
