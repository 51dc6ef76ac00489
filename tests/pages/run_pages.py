"""Run every command that the pages show against an installed wheel: `run_pages.py WHEEL`.

Each page is one sequence in a folder of its own, which holds the small files of `samples.py`. A
page without `pip install` runs in an environment that holds the wheel and nothing else; any other
one in a copy of it, with what its own lines install, all of them first. `changes.toml` lists the
commands that are run differently or not at all, with reasons. A command that fails, a change that
no command needs any more, and a verb that nothing runs are failures.
"""

import argparse
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from page_commands import Command, commands_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TIMEOUT_SECONDS = 600
HEAVY = ("torch", "torchgen", "functorch", "torchvision", "triton", "nvidia", "tensorrt_rtx")
"""Packages of gigabytes, which are lent by --lend instead of installed once more."""
HEAVY_EXTRAS = {"train", "export", "convert", "rtx"}
VERBS = """
import typer
from srgan_edge.cli import app

def walk(command, name):
    inner = getattr(command, "commands", {})
    if not inner:
        print(name)
    for word, child in inner.items():
        walk(child, f"{name} {word}".strip())

walk(typer.main.get_command(app), "")
"""


@dataclass
class Change:
    """How commands that contain `find` are run, or why they are not."""

    find: str
    why: str
    put: str | None = None
    """Replaces `find`."""
    add: str = ""
    """Is appended to the command."""
    before: str = ""
    """Runs before it, in the same folder."""
    exit: int = 0
    """The exit code that the page announces."""
    skip: bool = False
    page: str = ""
    """The only page that it is about; empty: all."""
    whole: bool = False
    """The command must be `find`, not only contain it."""
    used: bool = field(default=False, init=False)

    def concerns(self, page: str, text: str) -> bool:
        found = text == self.find if self.whole else self.find in text
        return found and self.page in ("", page)


@dataclass(frozen=True)
class Step:
    """A command as it is run."""

    shown: Command
    text: str
    before: str = ""
    exit: int = 0
    skipped: str = ""
    changed: str = ""


def plan(page: str, commands: Sequence[Command], changes: Sequence[Change]) -> list[Step]:
    """Return what is run for a page: installations first, and no command twice."""
    steps: dict[str, Step] = {}
    for command in sorted(commands, key=lambda command: not command.is_install):
        text, before, code, skipped = command.text, "", 0, ""
        reasons = []
        for change in changes:
            if not change.concerns(page, text):
                continue
            change.used = True
            if change.skip:
                skipped = change.why
                break
            reasons.append(change.why)
            if change.put is not None:
                text = text.replace(change.find, change.put)
            text += f" {change.add}" if change.add else ""
            before, code = change.before or before, change.exit or code
        changed = "; ".join(reasons)
        alike = " ".join(command.text.split())
        steps.setdefault(alike, Step(command, text, before, code, skipped, changed))
    return list(steps.values())


def verb_of(text: str, verbs: Sequence[str]) -> set[str]:
    """Return the verbs that a command line runs."""
    found = set()
    for words in re.findall(r"(?:srgan-edge|-m srgan_edge)((?: +[a-z][a-z-]*){1,2})", text):
        two, one = " ".join(words.split()), words.split()[0]
        found |= {verb for verb in (two, one) if verb in verbs}
    return found


class Environment:
    """A virtual environment, and a home without a cache or settings of the user's."""

    def __init__(self, folder: Path, wheel: Path, lender: Path | None) -> None:
        self.folder, self._wheel, self._lender = folder, wheel, lender
        self._lent = False

    @classmethod
    def create(cls, folder: Path, wheel: Path, lender: Path | None) -> Self:
        """Make an environment with the wheel in it and nothing else."""
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        environment = cls(folder, wheel, lender)
        if error := environment.install("pip install ."):
            raise SystemExit(f"the wheel cannot be installed:\n{error}")
        return environment

    def copy(self, folder: Path) -> Self:
        """Return an environment with the same packages, whose files are hard links to these."""
        subprocess.run(["cp", "-al", self.folder, folder], check=True)
        old, new = (f"#!{venv}/bin/".encode() for venv in (self.folder, folder))
        for script in (folder / "bin").iterdir():
            content = script.read_bytes()
            if not script.is_symlink() and content.startswith(old):
                script.unlink()
                script.write_bytes(new + content.removeprefix(old))
                script.chmod(0o755)
        return type(self)(folder, self._wheel, self._lender)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, command: str) -> str | None:
        """Run a `pip install` line with the wheel in place of `.`; return what went wrong."""
        words = []
        for word in shlex.split(command)[2:]:
            if re.fullmatch(r"\.(\[.*\])?", word):
                extras = set(re.findall(r"[a-z]+", word))
                if unknown := extras - extras_of(self._wheel):
                    return f"the wheel has no extra {', '.join(sorted(unknown))}"
                if extras & HEAVY_EXTRAS:
                    self._lend()
                word = f"{self._wheel}{word[1:]}"
            words.append(word)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--no-compile"]
        done = subprocess.run([*pip, *words], capture_output=True, text=True, cwd=self.folder)
        return done.stderr if done.returncode else None

    def run(self, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a line of shell as it would be typed in `folder`."""
        home = folder.parent / "home"
        home.mkdir(exist_ok=True)
        dropped = ("SRGAN_EDGE", "PYTHON", "XDG_", "VIRTUAL_ENV", "PIP_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=kept | {"PATH": path, "HOME": str(home), "OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
        )

    def _lend(self) -> None:
        """Link the heavy packages of the lender, if it has them, to where pip finds them."""
        if self._lent or self._lender is None:
            return
        self._lent = True
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        source, target = (
            venv.resolve() / "lib" / version / "site-packages"
            for venv in (self._lender, self.folder)
        )
        for path in source.iterdir():
            if path.name.startswith(HEAVY) and not (target / path.name).exists():
                (target / path.name).symlink_to(path)


def extras_of(wheel: Path) -> set[str]:
    """Return the names of a wheel's extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return set(re.findall(r"(?m)^Provides-Extra: (\S+)", archive.read(name).decode()))


class Run:
    """All pages against one wheel."""

    def __init__(self, wheel: Path, lender: Path | None, folder: Path) -> None:
        self._folder = folder
        self._bare = Environment.create(folder / "bare", wheel, lender)
        self._samples = folder / "samples"
        self._samples.mkdir()
        subprocess.run([self._bare.python, HERE / "samples.py", self._samples], check=True)
        listed = subprocess.run(
            [self._bare.python, "-c", VERBS], check=True, capture_output=True, text=True, cwd=folder
        )
        self.verbs = listed.stdout.split("\n")[:-1]
        self.verbs_run: set[str] = set()
        self.failures: list[str] = []

    def page(self, page: str, steps: Sequence[Step]) -> None:
        """Run a page from its first command to its last, past those that fail."""
        slug = re.sub(r"\W+", "-", page)
        folder = self._folder / slug / "here"
        shutil.copytree(self._samples, folder)
        environment = self._bare
        if any(step.shown.is_install and not step.skipped for step in steps):
            environment = self._bare.copy(self._folder / slug / "venv")
        for step in steps:
            place = f"{page}:{step.shown.line}"
            shown = step.shown.text.partition("\n")[0]
            if step.skipped:
                print(f"  not run   {place}  {shown}\n            {step.skipped}", flush=True)
                continue
            if self._is_mention(step):
                continue
            before = _cpu_seconds()
            error = self._step(environment, step, folder)
            seconds = _cpu_seconds() - before
            print(f"  {seconds:6.1f} s  {place}  {_one_line(step.text)}", flush=True)
            if step.changed:
                print(f"            instead of: {shown}: {step.changed}", flush=True)
            if error:
                print(f"  FAILED    {error}", flush=True)
                self.failures.append(f"{place}: {shown}\n{error}")
            self.verbs_run |= verb_of(step.text, self.verbs)

    def _is_mention(self, step: Step) -> bool:
        """Return whether code in prose only names a verb that there is."""
        _, _, verb = step.shown.text.partition("srgan-edge ")
        return step.shown.kind == "inline" and (
            verb in self.verbs or any(known.startswith(f"{verb} ") for known in self.verbs)
        )

    def _step(self, environment: Environment, step: Step, folder: Path) -> str | None:
        if step.shown.is_install:
            return environment.install(step.text)
        text = step.text
        if step.shown.kind == "python":
            (folder / "shown.py").write_text(text)
            text = "python shown.py"
        try:
            if step.before:
                first = environment.run(step.before, folder)
                if first.returncode:
                    return f"{step.before}: {_tail(first)}"
            done = environment.run(text, folder)
        except subprocess.TimeoutExpired:
            return f"not done after {TIMEOUT_SECONDS} s"
        if done.returncode == step.exit:
            return None
        return f"exit code {done.returncode}, not {step.exit}: {_tail(done)}"


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout[-1000:] + done.stderr[-2000:]).strip()


def _one_line(text: str) -> str:
    first, _, more = text.partition("\n")
    return f"{first} ..." if more else first


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pages(root: Path) -> Iterator[tuple[str, list[Command]]]:
    """Yield the README and the pages of docs/, with their commands."""
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        yield path.relative_to(root).as_posix(), commands_of(path.read_text())


def read_changes(path: Path = HERE / "changes.toml") -> tuple[list[Change], list[Command]]:
    """Return the changes, and the commands that are run besides those of the pages."""
    table = tomllib.loads(path.read_text())
    extra = [Command(0, entry["run"]) for entry in table.get("extra", [])]
    return [Change(**entry) for entry in table.get("change", [])], extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--lend", type=Path, help="environment to borrow torch and its like from")
    parser.add_argument("--only", default="", help="pages whose names contain this")
    options = parser.parse_args()

    changes, extra = read_changes()
    plans = {page: plan(page, commands, changes) for page, commands in pages(ROOT)}
    plans["extra"] = plan("extra", extra, changes)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="srgan-edge-pages-") as name:
        run = Run(options.wheel.resolve(), options.lend, Path(name))
        for page, steps in plans.items():
            if steps and options.only in page:
                print(page, flush=True)
                run.page(page, steps)
    failures = run.failures
    failures += [
        f"changes.toml: no command contains {change.find!r} any more; remove it"
        for change in changes
        if not change.used
    ]
    if not options.only:
        failures += [
            f"no page runs `srgan-edge {verb}`, and no [[extra]] of changes.toml"
            for verb in run.verbs
            if verb not in run.verbs_run
        ]
    count = sum(not step.skipped for steps in plans.values() for step in steps)
    print(
        f"{count} commands, {len(failures)} failures, {_cpu_seconds():.0f} s of processor time, "
        f"{time.monotonic() - started:.0f} s in all"
    )
    if failures:
        sys.exit("\n" + "\n\n".join(failures))


if __name__ == "__main__":
    main()
