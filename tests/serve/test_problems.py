"""The tables of docs/serve.md say what the service answers."""

import re
from pathlib import Path

from srgan_edge import errors
from srgan_edge.serve.problems import BY_EXIT_CODE, OWN, Problem

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serve.md").read_text()


def rows(heading):
    table = PAGE.partition(heading)[2].partition("\n\n")[0]
    return [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]
    ]


def test_exit_codes_are_mapped_as_the_page_says():
    shown = {code: (status, name) for code, status, name in rows("| exit code | status | name |")}
    own = {str(code): (str(it.status), f"`{name}`") for code, (name, it) in BY_EXIT_CODE.items()}
    assert shown == {"7, signals" if code == "7" else code: it for code, it in own.items()}


def test_every_class_of_error_is_mapped():
    classes = [it for it in vars(errors).values() if isinstance(it, type)]
    codes = {it.exit_code for it in classes if issubclass(it, errors.SrganEdgeError)}
    assert codes == set(BY_EXIT_CODE)
    assert Problem.of_exit_code(137, "killed").kind.status == 503
    assert Problem.of_error(errors.InputDamaged("a.png: damaged")).body["exit_code"] == 4


def test_own_problems_are_those_of_the_page():
    shown = {
        (int(status), name)
        for status, names in rows("| status | names |")
        for name in re.findall(r"`([a-z-]+)`", names)
    }
    assert shown == {(kind.status, name) for name, kind in OWN.items()}


def test_the_options_of_the_page_exist():
    from typer.main import get_command

    from srgan_edge.cli import app

    known = {option for it in get_command(app).commands["serve"].params for option in it.opts} | {
        option for it in get_command(app).commands["submit"].params for option in it.opts
    }
    named = set(re.findall(r"`(--[a-z-]+)`", PAGE))
    assert named <= known
    limits = {it for it in known if it.startswith(("--max-", "--keep-"))}
    assert limits <= set(re.findall(r"--[a-z-]+", PAGE))
