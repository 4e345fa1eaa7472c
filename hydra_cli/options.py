"""What all commands share: the options -o, --no-color, --env and -n, kinds of values, the form of help texts.

A command is declared with `@command(…)`, which wants examples and exit codes: `tests/test_docs.py` parses the
ones and compares the others with the README.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import click

from handlers.core.budget import Amount, parse_amount
from handlers.core.errors import Usage
from handlers.core.reading import Reads, check_label
from handlers.core.version import ReleaseId, Version
from hydra_cli.context import Context
from hydra_cli.output import Screen

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "failed",
    2: "usage or unknown name",
    3: "changes pending (--detailed-exitcode)",
    4: "denied",
    5: "conflict",
    6: "time-out",
    7: "integrity",
    8: "untrusted",
    9: "published but not taken over (halted, rejected, pinned elsewhere, paused)",
    10: "unavailable (trying again makes sense)",
    11: "source not ready",
    130: "interrupted",
}
Lazy = Mapping[str, tuple[str, str, str]]
ALWAYS = (0, 1, 2, 4, 10, 130)  # what every command may end with
WRITES = (5,)  # what every command that changes something may end with besides
_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")
F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """Text like `90s`, `10m`, `1h30m` → seconds; a bare number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails with what would have been right."""
        if isinstance(value, (int, float)):
            return float(value)
        match = _SPAN.fullmatch(value)
        if not value or not match:
            self.fail(f"{value!r} is not a duration like 90s, 10m or 1h30m", param, ctx)
        return sum(float(n) * u for n, u in zip(match.groups(), (86400, 3600, 60, 1), strict=True) if n)


class AmountType(click.ParamType[Amount]):
    """A number like `3` or a percentage like `25%`."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Amount:
        """The number, or the percentage as text; fails with what would have been right."""
        try:
            return parse_amount(value)
        except Usage as e:
            self.fail(str(e), param, ctx)


class ReadsType(click.ParamType[Reads]):
    """Conditions on labels like `format<=4`."""

    name = "conditions"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reads:
        """The conditions; fails with what would have been right."""
        try:
            return Reads.parse(value)
        except Usage as e:
            self.fail(str(e), param, ctx)


class ReleaseType(click.ParamType[ReleaseId]):
    """A release like `prod/search/places@2026-01-31T23-59-59`."""

    name = "channel@version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ReleaseId:
        """The release; fails with the one form."""
        try:
            return ReleaseId.parse(value)
        except Usage as e:
            self.fail(str(e), param, ctx)


class VersionType(click.ParamType[Version]):
    """A version like `2026-01-31T23-59-59`."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Version:
        """The version; fails with the one format."""
        try:
            return Version.parse(value)
        except Usage as e:
            self.fail(str(e), param, ctx)


class Labels(click.ParamType[tuple[str, str]]):
    """`key=value`."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """The pair."""
        if isinstance(value, tuple):
            return str(value[0]), str(value[1])
        key, equals, text = value.partition("=")
        if not equals or not key.strip():
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        try:
            return check_label(key), text
        except Usage as e:
            self.fail(str(e), param, ctx)


class HelpWithExamples:
    """The end of a help text: examples that run as they stand, and the exit codes."""

    examples: str = ""
    codes: tuple[int, ...] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write both; click's own wrapping would join the lines."""
        del ctx
        formatter.write_paragraph()
        formatter.write("Examples:\n")
        formatter.write("".join(f"  {line}\n" for line in self.examples.strip().splitlines()))
        if self.codes:
            formatter.write("\nExit codes:\n")
            formatter.write("".join(f"  {code:>3}  {EXIT_CODES[code]}\n" for code in self.codes))


class Command(HelpWithExamples, click.Command):
    """One command."""


class Group(HelpWithExamples, click.Group):
    """A group of commands; `lazy` are those of other modules, imported when they are run.

    Every module costs start-up time and `hydra --help` or a completion need none, so a lazy command is a row:
    name → (module, attribute, the first line of its help).
    """

    lazy: ClassVar[Lazy] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now if it is one of another module."""
        if cmd_name in self.lazy:
            module, attribute, _ = self.lazy[cmd_name]
            found = getattr(importlib.import_module(module), attribute)
            assert isinstance(found, click.Command)
            return found
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        rows = []
        for name in self.list_commands(ctx):
            own = self.commands.get(name)
            rows.append(
                (name, self.lazy[name][2] if name in self.lazy else own.get_short_help_str() if own else "")
            )
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _screen(ctx: click.Context, **changed: Any) -> None:
    """Change how this run writes."""
    context = ctx.ensure_object(Context)
    old = context.screen
    context.screen = Screen(changed.get("form", old.form), colour=changed.get("colour", old.colour))


def _set_form(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        _screen(ctx, form=value)


def _set_colour(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        _screen(ctx, colour=False)


def _set_env(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        ctx.ensure_object(Context).given_env = value


def _set_namespace(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        ctx.ensure_object(Context).given_namespace = value


def common() -> list[click.Option]:
    """The options that every command has, before or after its name."""
    early: dict[str, Any] = {"expose_value": False, "is_eager": True}
    return [
        click.Option(["-o", "--output"], type=click.Choice(["table", "json"]), callback=_set_form,
                     help="How data is printed (default: table).", **early),
        click.Option(["--no-color"], is_flag=True, callback=_set_colour,
                     help="No colour, also on a terminal (as NO_COLOR=1).", **early),
        click.Option(["--env"], metavar="ENV", callback=_set_env,
                     help="Environment of names without one (default: HYDRA_ENV).", **early),
        click.Option(["-n", "--namespace"], metavar="NS", callback=_set_namespace,
                     help="Namespace of names without one (default: HYDRA_NAMESPACE).", **early),
    ]  # fmt: skip


def command(name: str, *, examples: str, codes: Sequence[int] = (), **attrs: Any) -> Callable[[F], Command]:
    """Declare a command with the common options, its examples, and the exit codes it has beyond `ALWAYS`."""

    def declare(function: F) -> Command:
        made = click.command(name, cls=Command, **attrs)(function)
        own = {name for param in made.params for name in param.opts}
        made.params += [option for option in common() if not own & set(option.opts)]
        made.examples, made.codes = examples, tuple(sorted({*ALWAYS, *codes}))
        return made

    return declare


def group(name: str, *, examples: str, cls: type[Group] = Group, **attrs: Any) -> Callable[[F], Group]:
    """Declare a group of commands with the common options and examples."""

    def declare(function: F) -> Group:
        made = click.group(name, cls=cls, **attrs)(function)
        made.params += common()
        made.examples = examples
        return made

    return declare


def add(parent: Group, *members: click.Command) -> None:
    """Put commands into a group."""
    for member in members:
        parent.add_command(member)
