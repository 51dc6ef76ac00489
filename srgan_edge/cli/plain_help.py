"""Help pages as plain text: one list of options for each panel, at most 80 columns wide.

The classes of commands and groups are here, so what all of them refuse is here too.
"""

import re
from math import isnan
from textwrap import wrap
from typing import Any, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup

from srgan_edge.cli.advice import meant
from srgan_edge.errors import UsageError

Rows: TypeAlias = dict[str, list[tuple[str, str]]]
"""Names of options or commands and their help, by panel."""

_DEFAULT = re.compile(r"\[[^]]*\]$")
_HARD_SPACE = "\N{NO-BREAK SPACE}"

_MAY_BE_EMPTY = ("suffix", "source")

_LONGEST_OPTION = 26
_LONGEST_COMMAND = 16


class PlainCommand(TyperCommand):
    """A command whose help lists its options by `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - click's, or typer's own copy
        _write_panels(_parameters_by_panel(self, ctx), formatter, _LONGEST_OPTION)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        if not ctx.resilient_parsing:
            _refuse_empty(self, ctx, args)
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            if isinstance(value, float) and isnan(value):
                raise UsageError(f"{_called(parameter)} nan; possible: a number")
        return rest


class PlainGroup(TyperGroup):
    """A group whose help lists its commands by panel, and which advises on a command it lacks."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        panels: Rows = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                panel = panel if isinstance(panel, str) else "Commands"
                panels.setdefault(panel, []).append((name, command.get_short_help_str(limit=1000)))
        _write_panels(panels | _parameters_by_panel(self, ctx), formatter, _LONGEST_COMMAND)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise meant(args, self.list_commands(ctx), ctx.command_path)
        return super().resolve_command(ctx, args)


def _refuse_empty(command: Any, ctx: Any, args: list[str]) -> None:  # noqa: ANN401
    """Raise at an empty argument, which as a path would be the current folder.

    It is what a variable of the shell leaves that was never set.
    """
    typed, _, _ = command.make_parser(ctx).parse_args(args=list(args))
    for parameter in command.params:
        value = typed.get(parameter.name)
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.name not in _MAY_BE_EMPTY and any(it == "" for it in values):
            raise UsageError(
                f"{_called(parameter)} is empty; name something, or leave it out (is a variable of "
                "the shell not set?)"
            )


def _called(parameter: Any) -> str:  # noqa: ANN401
    """Return how a user knows a parameter: an option's name, or an argument's as help shows it."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    return max(parameter.opts, key=len)


def _parameters_by_panel(command: Any, ctx: Any) -> Rows:  # noqa: ANN401
    panels: Rows = {}
    for parameter in command.get_params(ctx):
        is_argument = parameter.param_type_name == "argument"
        panel = getattr(parameter, "rich_help_panel", None)
        if not isinstance(panel, str):
            panel = "Arguments" if is_argument else "Options"
        if record := parameter.get_help_record(ctx):
            name, text = record
            if is_argument:
                name = parameter.metavar + ("..." if parameter.nargs == -1 else "")
            panels.setdefault(panel, []).append((name, text))
    return panels


def _write_panels(panels: Rows, formatter: Any, limit: int) -> None:  # noqa: ANN401
    """Write a heading and two columns for each panel.

    Args:
        limit: longest name that has its text beside it; a longer one has it below.
    """
    names = (name for rows in panels.values() for name, _ in rows)
    column = max((len(name) for name in names if len(name) <= limit), default=limit)
    for panel, rows in panels.items():
        formatter.write(f"\n{typer.style(panel, bold=True)}\n")
        for name, text in rows:
            whole = _DEFAULT.sub(lambda found: found[0].replace(" ", _HARD_SPACE), text)
            lines = wrap(whole, formatter.width - column - 4, break_on_hyphens=False)
            if len(name) > column:
                formatter.write(f"  {name}\n")
                name = ""
            for line in lines:
                formatter.write(f"  {name:{column}}  {line.replace(_HARD_SPACE, ' ')}\n")
                name = ""
